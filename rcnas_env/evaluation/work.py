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
from rcnas_env.data import ImageSet, dataset_entry, load_splits
from rcnas_env.data.splitting import SPLIT_SEED, take_per_class
from rcnas_env.difficulty import lipschitz_coefficients
from rcnas_env.evaluation.job import Job
from rcnas_env.evaluation.record import Evaluation
from rcnas_env.networks import build
from rcnas_env.networks.frozen import freeze
from rcnas_env.seeding import derive_seed
from rcnas_env.training.fit import cpu_threads, fit


def train(job: Job, device: str = "cpu") -> tuple[dict[str, Any], bytes]:
    """Train the job's network from scratch.

    Returns:
        (report, weights): JSON values with losses, seconds, `diverged` and provenance; safetensors bytes.
    """
    generator = torch.Generator().manual_seed(derive_seed(job.seed, "initial weights"))
    model = build(job.network, generator).to(device)
    data = load_splits(job.task.dataset, job.recipe.n_eval).train
    if job.recipe.n_train is not None:
        data = data.subset(take_per_class(data.labels, job.recipe.n_train, SPLIT_SEED)[0])
    seed = derive_seed(job.seed, "training")
    entry = dataset_entry(job.task.dataset)
    padding = entry.crop_padding if entry.augmentation == "crop-flip" else None
    report = fit(model, data, job.recipe, job.training_epsilon, seed, device, crop_padding=padding)
    weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    summary = {
        "losses": [loss if math.isfinite(loss) else None for loss in report.losses],
        "seconds": report.seconds,
        "diverged": report.diverged,
        "network": job.network.to_dict(),
        "provenance": provenance(device, job.recipe.threads),
    }
    return summary, save_safetensors(weights)


def load_network(job: Job, weights: bytes, device: str = "cpu") -> nn.Module:
    """The job's network with trained weights (safetensors bytes), in eval mode on `device`."""
    model = build(job.network)
    model.load_state_dict(load_safetensors(weights))
    return model.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]


def attack_images(job: Job, weights: bytes, device: str = "cpu", progress_folder: str | None = None) -> AttackResult:
    """Attack the job's split through its network, white box; `progress_folder` as in `measure`."""
    images, labels = _attacked_split(job)
    model = load_network(job, weights, device)
    attacked = freeze(model) if job.recipe.folded else model
    attack = attack_entry(job.task.attack).make(job.task.radius, job.network.classes)
    seed = derive_seed(job.seed, "attack", job.task.attack)
    with cpu_threads(job.recipe.threads):
        return run_attack(
            attack,
            attacked,
            images.to(device),
            labels.to(device),
            seed=seed,
            batch_size=job.recipe.attack_batch_size,
            progress=None if progress_folder is None else AttackProgress(progress_folder),
        )


def measure(
    job: Job,
    report: dict[str, Any],
    weights: bytes,
    through: tuple[dict[str, Any], bytes] | None = None,
    device: str = "cpu",
    progress_folder: str | None = None,
) -> Evaluation:
    """Attack the job's trained network and measure it.

    Args:
        job: what was trained.
        report, weights: what `train` returned for it.
        through: (report, weights) of the teacher, where the attack goes through it (`job.source_job`); a
            teacher that diverged gives no attack, and the images stay clean.
        device: where to attack.
        progress_folder: where an attack that takes long keeps how far it has come, to go on from there after an
            interruption; None to start over.
    """
    if report["diverged"]:
        return _diverged(job, report, device)
    start = time.perf_counter()
    images, labels = (tensor.to(device) for tensor in _attacked_split(job))
    model = load_network(job, weights, device)
    if job.source_job is None:
        attacked = attack_images(job, weights, device, progress_folder).adversarial
    elif through is None:
        raise ValueError("through must be the teacher's training where the attack goes through it, got None")
    else:
        source = (job.source_job, through[1], device, progress_folder)
        attacked = images if through[0]["diverged"] else attack_images(*source).adversarial
    with cpu_threads(job.recipe.threads):
        clean_logits = _logits(model, images, job.recipe.attack_batch_size)
        attacked_logits = _logits(model, attacked, job.recipe.attack_batch_size)
        lips = (
            lipschitz_coefficients(model, images, attacked, job.recipe.attack_batch_size)
            if job.source_job is None
            else torch.empty(0)
        )
    if not all(bool(values.isfinite().all()) for values in (clean_logits, attacked_logits, lips)):
        return _diverged(job, report, device)  # its weights are finite, but too large to compute with
    clean = clean_logits.argmax(1) == labels
    robust = clean & (attacked_logits.argmax(1) == labels)
    untouched = (attacked == images).flatten(1).all(dim=1)
    network_cost = cost(job.network)
    return Evaluation(
        key=job.key,
        params=network_cost.params,
        macs=network_cost.macs,
        images=len(labels),
        clean_accuracy=clean.float().mean().item(),
        robust_accuracy=robust.float().mean().item(),
        adversarial_loss=F.cross_entropy(attacked_logits, labels).item(),
        robust=tuple(robust.tolist()),
        lips=tuple(lips.tolist()),
        zero_perturbations=untouched.float().mean().item(),
        diverged=False,
        training_seconds=float(report["seconds"]),
        attack_seconds=time.perf_counter() - start,
        provenance=provenance(device, job.recipe.threads),
    )


def provenance(device: str, threads: int) -> dict[str, Any]:
    """Where a figure comes from: engine, versions, hardware."""
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu"
    return {"engine": "trained", "torch": torch.__version__, "device": name, "threads": threads}


def _attacked_split(job: Job) -> tuple[Tensor, Tensor]:
    splits = load_splits(job.task.dataset, job.recipe.n_eval)
    chosen: ImageSet = splits.eval if job.split == "eval" else splits.test
    if job.split == "test" and job.recipe.n_test is not None:
        chosen = chosen.subset(take_per_class(chosen.labels, job.recipe.n_test, SPLIT_SEED)[0])
    return chosen.images().contiguous(memory_format=torch.channels_last), chosen.labels


def _logits(model: nn.Module, images: Tensor, batch_size: int) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(batch).float() for batch in images.split(batch_size)])


def _diverged(job: Job, report: dict[str, Any], device: str) -> Evaluation:
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
        training_seconds=float(report["seconds"]),
        attack_seconds=0.0,
        provenance=provenance(device, job.recipe.threads),
    )
