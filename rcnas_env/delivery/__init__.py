"""Students as they are delivered: a folder with weights, their card and, if wanted, ONNX or torch.export graphs."""

from rcnas_env.delivery.card import Measurement, Preprocessing, StudentCard
from rcnas_env.delivery.graph_formats import FORMATS, MismatchError
from rcnas_env.delivery.student_folder import DeliveryError, load_student, read_card, write_student

__all__ = [
    "FORMATS",
    "DeliveryError",
    "Measurement",
    "MismatchError",
    "Preprocessing",
    "StudentCard",
    "load_student",
    "read_card",
    "write_student",
]
