"""The two pieces of real work, as functions of plain data, so that any process or machine can run them."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from rcnas_env.attacks import AttackProgress, AttackResult, attack_entry, run_attack
from rcnas_env.cost import cost
from rcnas_env.data import DataCorruptError, ImageSet, dataset_entry, load_splits
from rcnas_env.data.dataset import validate_test_size
from rcnas_env.data.splitting import SPLIT_SEED, take_per_class
from rcnas_env.difficulty import lipschitz_coefficients
from rcnas_env.evaluation.attacked_sets import AttackedSet
from rcnas_env.evaluation.job import Job
from rcnas_env.evaluation.record import Evaluation
from rcnas_env.networks import build
from rcnas_env.networks.frozen import freeze
from rcnas_env.seeding import derive_seed
from rcnas_env.training.fit import cpu_threads, fit
from rcnas_env.training.freed_memory import give_back_freed_memory
from rcnas_env.training.memory import MicroBatch


def train(job: Job, device: str = "cpu") -> tuple[dict[str, Any], bytes]:
    """Train the job's network from scratch.

    Returns:
        (report, weights): JSON values with losses, seconds, `diverged`, `micro_batch` (`TrainingReport`) and
        provenance; safetensors bytes.
    """
    give_back_freed_memory()  # the last evaluation's
    generator = torch.Generator().manual_seed(derive_seed(job.seed, "initial weights"))
    model = build(job.network, generator).to(device)
    _require_unchanged(job)
    splits = load_splits(job.task.dataset, job.recipe.n_eval)
    if job.split == "test":  # before the training, not after it
        validate_test_size("recipe.n_test", job.task.dataset, job.recipe.n_test, job.recipe.n_eval)
    data = splits.train
    if job.recipe.n_train is not None:
        data = data.subset(take_per_class(data.labels, job.recipe.n_train, SPLIT_SEED)[0])
    seed = derive_seed(job.seed, "training")
    padding = dataset_entry(job.task.dataset).training_crop_padding
    report = fit(model, data, job.recipe, job.training_epsilon, seed, device, crop_padding=padding)
    weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    summary = {
        "losses": [loss if math.isfinite(loss) else None for loss in report.losses],
        "seconds": report.seconds,
        "diverged": report.diverged,
        "micro_batch": report.micro_batch,
        "network": job.network.to_dict(),
        "provenance": provenance(device, job.recipe.threads),
    }
    return summary, save_safetensors(weights)


def load_network(job: Job, weights: bytes, device: str = "cpu") -> nn.Module:
    """The job's network with trained weights (safetensors bytes), in eval mode on `device`."""
    model = build(job.network)
    model.load_state_dict(load_safetensors(weights))
    return model.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]


def attack_images(
    job: Job,
    weights: bytes,
    device: str = "cpu",
    progress_folder: str | None = None,
    micro_batch: MicroBatch | None = None,
) -> AttackResult:
    """Attack the job's split through its network, white box; `progress_folder` as in `measure`.

    Where memory runs out the attack starts over with fewer images in a forward pass (`micro_batch`): the same batches,
    random draws and, to rounding, logits.
    """
    micro_batch = micro_batch or MicroBatch()
    images, labels = (tensor.to(device) for tensor in _attacked_split(job))
    model = load_network(job, weights, device)
    attacked = freeze(model) if job.recipe.folded else model
    attack = attack_entry(job.task.attack).make(job.task.radius, job.network.classes)
    seed = derive_seed(job.seed, "attack", job.task.attack)
    progress = None if progress_folder is None else AttackProgress(progress_folder)

    def attempt() -> AttackResult:
        """The whole attack, by the micro-batch of this moment: `MicroBatch.run` calls again after lack of memory."""
        return run_attack(
            attack,
            micro_batch.divide(attacked),
            images,
            labels,
            seed=seed,
            batch_size=job.recipe.attack_batch_size,
            progress=progress,
            judge=micro_batch.divide(model),
        )

    with cpu_threads(job.recipe.threads):
        return micro_batch.run(min(job.recipe.attack_batch_size, len(images)), attempt)


def _source(job: Job, weights: bytes, through: tuple[dict[str, Any], bytes] | None) -> tuple[Job, bytes] | None:
    """The job and the weights whose gradients the attack follows; None where they are of a training that diverged."""
    if job.source_job is None:
        return job, weights
    if through is None:
        raise ValueError("through must be the teacher's training where the attack goes through it, got None")
    return None if through[0]["diverged"] else (job.source_job, through[1])


def measure(
    job: Job,
    report: dict[str, Any],
    weights: bytes,
    through: tuple[dict[str, Any], bytes] | None = None,
    device: str = "cpu",
    progress_folder: str | None = None,
    attacked_set: AttackedSet | None = None,
) -> tuple[Evaluation, AttackedSet | None]:
    """Attack the job's trained network and measure it.

    Args:
        job: what was trained.
        report, weights: what `train` returned for it.
        through: (report, weights) of the teacher, where the attack goes through it (`job.source_job`); a
            teacher that diverged gives no attack, and the images stay clean.
        device: where to attack.
        progress_folder: where an attack that takes long keeps how far it has come, to go on from there after an
            interruption; None to start over.
        attacked_set: the images as attacked through the teacher before, for this or another student of it.

    Returns:
        (evaluation, images that were attacked here and that the teacher's other students share; None where there are
        none). Its `attack_seconds` are what the attack and the measurement take, whoever attacked the images first.
        Where memory ran out its provenance holds `training_micro_batch` or `attack_micro_batch`, see `MicroBatch`.

    Raises:
        NoRoomError: memory does not suffice for one image.
    """
    if report["diverged"]:
        return _diverged(job, report, device), None
    _require_unchanged(job)
    give_back_freed_memory()  # the training's
    start = time.perf_counter()
    micro_batch = MicroBatch()
    images, labels = (tensor.to(device) for tensor in _attacked_split(job))
    model = load_network(job, weights, device)
    source, before, shared = _source(job, weights, through), dict[str, Any](), None
    known = None if attacked_set is None or source is None else attacked_set.attacked(images, job.task.radius)
    if source is None:
        attacked = images
    elif attacked_set is not None and known is not None:
        attacked, before = known, attacked_set.record
    else:
        attacked = attack_images(*source, device, progress_folder, micro_batch).adversarial
        if job.task.attack_source == "teacher":
            shared = AttackedSet.of(attacked, time.perf_counter() - start, _origin(job, device, micro_batch))
    clean_logits, attacked_logits, lips = _forward_passes(job, model, images, attacked, micro_batch)
    if not all(bool(values.isfinite().all()) for values in (clean_logits, attacked_logits, lips)):
        return _diverged(job, report, device), shared  # its weights are finite, but too large to compute with
    clean = clean_logits.argmax(1) == labels
    robust = clean & (attacked_logits.argmax(1) == labels)
    network_cost = cost(job.network)
    evaluation = Evaluation(
        key=job.key,
        params=network_cost.params,
        macs=network_cost.macs,
        images=len(labels),
        clean_accuracy=clean.float().mean().item(),
        robust_accuracy=robust.float().mean().item(),
        adversarial_loss=F.cross_entropy(attacked_logits, labels).item(),
        robust=tuple(robust.tolist()),
        lips=tuple(lips.tolist()),
        zero_perturbations=(attacked == images).flatten(1).all(dim=1).float().mean().item(),
        diverged=False,
        training_seconds=float(report["seconds"]),
        attack_seconds=time.perf_counter() - start + before.get("seconds", 0.0),
        provenance={**provenance(device, job.recipe.threads), **_divisions(report, micro_batch, before)},
    )
    return evaluation, shared


def failed(job: Job, reason: str, device: str) -> Evaluation:
    """The record of a job that could not be done: as of a diverged training, with `reason` in its provenance."""
    # without a look at the device, whose fault it may be
    origin = {"engine": "trained", "torch": torch.__version__, "device": device, "threads": job.recipe.threads}
    return _useless(job, 0.0, {**origin, "failed": reason})


def provenance(device: str, threads: int) -> dict[str, Any]:
    """Where a figure comes from: engine, versions, hardware."""
    kind = torch.device(device).type
    name = torch.cuda.get_device_name(device) if kind == "cuda" else kind
    return {"engine": "trained", "torch": torch.__version__, "device": name, "threads": threads}


def _require_unchanged(job: Job) -> None:
    """Check that the data set is the one that the job's key is of: a folder of images may have changed since."""
    if dataset_entry(job.task.dataset).fingerprint != job.fingerprint:
        raise DataCorruptError(
            f"dataset {job.task.dataset!r} has changed since the run began, or is another copy on this machine (names, "
            "sizes and times of last change count): start again"
        )


def _attacked_split(job: Job) -> tuple[Tensor, Tensor]:
    splits = load_splits(job.task.dataset, job.recipe.n_eval)
    chosen: ImageSet = splits.eval if job.split == "eval" else splits.test
    if job.split == "test" and job.recipe.n_test is not None:
        chosen = chosen.subset(take_per_class(chosen.labels, job.recipe.n_test, SPLIT_SEED)[0])
    return chosen.images().contiguous(memory_format=torch.channels_last), chosen.labels


def _forward_passes(
    job: Job, model: nn.Module, images: Tensor, attacked: Tensor, micro_batch: MicroBatch
) -> tuple[Tensor, Tensor, Tensor]:
    """(logits on `images`, logits on `attacked`, Eq. 1 an image, or nothing where another network was attacked)."""
    batch_size = job.recipe.attack_batch_size

    def attempt() -> tuple[Tensor, Tensor, Tensor]:
        """All forward passes, by the micro-batch of this moment; called again after lack of memory."""
        divided = micro_batch.divide(model)
        clean_logits, attacked_logits = (_logits(divided, each, batch_size) for each in (images, attacked))
        if job.source_job is not None:
            return clean_logits, attacked_logits, torch.empty(0)
        return clean_logits, attacked_logits, lipschitz_coefficients(divided, images, attacked, batch_size)

    with cpu_threads(job.recipe.threads):
        return micro_batch.run(min(batch_size, len(images)), attempt)


def _logits(model: nn.Module, images: Tensor, batch_size: int) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(batch).float() for batch in images.split(batch_size)])


def _divisions(report: dict[str, Any], micro_batch: MicroBatch, before: dict[str, Any]) -> dict[str, int]:
    """The sizes that batches had to be divided into, for the provenance: nothing where memory sufficed.

    before: the record of the attacked set, where there was one.
    """
    attack = micro_batch.size if micro_batch.size is not None else before.get("micro_batch")
    sizes = {"training_micro_batch": report.get("micro_batch"), "attack_micro_batch": attack}
    return {name: size for name, size in sizes.items() if size is not None}


def _origin(job: Job, device: str, micro_batch: MicroBatch) -> dict[str, Any]:
    """Where an attacked set is from, for its record."""
    divided = {} if micro_batch.size is None else {"micro_batch": micro_batch.size}
    return {**provenance(device, job.recipe.threads), **divided}


def _diverged(job: Job, report: dict[str, Any], device: str) -> Evaluation:
    return _useless(job, float(report["seconds"]), provenance(device, job.recipe.threads))


def _useless(job: Job, training_seconds: float, origin: dict[str, Any]) -> Evaluation:
    """Zero accuracy, flagged: the run goes on."""
    count = len(_attacked_split(job)[1])
    network_cost = cost(job.network)
    return Evaluation(
        key=job.key,
        params=network_cost.params,
        macs=network_cost.macs,
        images=count,
        clean_accuracy=0.0,
        robust_accuracy=0.0,
        adversarial_loss=float("inf"),
        robust=(False,) * count,
        lips=() if job.source_job else (0.0,) * count,
        zero_perturbations=1.0,
        diverged=True,
        training_seconds=training_seconds,
        attack_seconds=0.0,
        provenance=origin,
    )
