"""Every engine behind the one protocol, then what is particular to each."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from rcnas_env.cost import cost
from rcnas_env.data import load_splits
from rcnas_env.evaluation import work
from rcnas_env.evaluation.analytic import AnalyticEvaluator
from rcnas_env.evaluation.evaluator import Evaluator, known_engines, make_engine, register_engine
from rcnas_env.evaluation.job import Job
from rcnas_env.evaluation.record import Evaluation
from rcnas_env.evaluation.store import FolderStore, MemoryStore
from rcnas_env.evaluation.tabular import NotRecordedError, TabularEvaluator
from rcnas_env.evaluation.trained import TrainedEvaluator, resolve_device
from rcnas_env.registry import UnknownNameError
from tests import tiny
from tests.tiny import CountingStore

STUDENT, TEACHER = tiny.job(), tiny.job(tiny.TEACHER)
OTHER_ATTACK, TRANSFER = tiny.job(attack="pgd-2"), tiny.job(attack_source="teacher")
TEST_SPLIT = tiny.job(split="test", recipe=tiny.RECIPE.but(n_test=50))
JOBS = [STUDENT, TEACHER, OTHER_ATTACK, TRANSFER, TEST_SPLIT]
ENGINES = ("trained", "analytic", "tabular")


@dataclasses.dataclass(frozen=True)
class Recorded:
    """`JOBS` once trained and evaluated: the store that was filled, and what came back."""

    store: CountingStore
    evaluations: dict[Job, Evaluation]


@pytest.fixture(scope="module")
def recorded() -> Recorded:
    store = CountingStore()
    engine = TrainedEvaluator(store, device="cpu")
    return Recorded(store, dict(zip(JOBS, engine.evaluate(JOBS), strict=True)))


@pytest.fixture
def store(recorded: Recorded) -> CountingStore:
    """A store that knows the trainings of `JOBS`, but none of their evaluations."""
    filled = CountingStore()
    for key in recorded.store.trained:
        training = recorded.store.load_training(key)
        assert training is not None
        filled.save_training(key, *training)
    filled.trained.clear()
    return filled


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, recorded: Recorded, store: CountingStore) -> Evaluator:
    """Each engine by its name; the tabular one answers from what was recorded."""
    made: Evaluator = make_engine(request.param, recorded.store if request.param == "tabular" else store)
    return made


def timeless(evaluation: Evaluation) -> Evaluation:
    """What must be equal to the bit: all but the wall times and where it came from."""
    return dataclasses.replace(evaluation, training_seconds=0.0, attack_seconds=0.0, from_store=False)


def by_hand(evaluation: Evaluation) -> tuple[float, float, tuple[bool, ...]]:
    return evaluation.clean_accuracy, evaluation.robust_accuracy, evaluation.robust


# --- the contract -----------------------------------------------------------------------------------------------------


def test_results_come_in_the_order_of_the_jobs(engine: Evaluator) -> None:
    for order in (JOBS, JOBS[::-1]):
        found = engine.evaluate(order)
        assert [evaluation.key for evaluation in found] == [job.key for job in order]
        assert [evaluation.params for evaluation in found] == [cost(job.network).params for job in order]
        assert [evaluation.macs for evaluation in found] == [cost(job.network).macs for job in order]


def test_equal_jobs_are_evaluated_and_announced_once(engine: Evaluator) -> None:
    announced: list[tuple[Job, Evaluation]] = []
    found = engine.evaluate(
        [STUDENT, TEACHER, STUDENT, STUDENT], lambda job, evaluation: announced.append((job, evaluation))
    )
    assert found[0] == found[2] == found[3] != found[1]
    assert {job: evaluation for job, evaluation in announced} == {STUDENT: found[0], TEACHER: found[1]}
    assert len(announced) == 2


def test_no_jobs_no_results(engine: Evaluator) -> None:
    assert engine.evaluate([]) == []


def test_asking_again_gives_the_same(engine: Evaluator) -> None:
    first, second = engine.evaluate(JOBS), engine.evaluate(JOBS)
    assert list(map(timeless, first)) == list(map(timeless, second))


def test_records_are_consistent(engine: Evaluator) -> None:
    for job, evaluation in zip(JOBS, engine.evaluate(JOBS), strict=True):
        assert 0.0 <= evaluation.robust_accuracy <= evaluation.clean_accuracy <= 1.0
        assert len(evaluation.robust) == evaluation.images
        assert len(evaluation.lips) == (0 if job is TRANSFER else evaluation.images)
        assert all(value >= 0 for value in evaluation.lips)
        assert abs(np.mean(evaluation.robust) - evaluation.robust_accuracy) <= 0.5 / evaluation.images + 1e-6
        assert not evaluation.diverged
        assert Evaluation.from_dict(evaluation.to_dict()) == dataclasses.replace(evaluation, from_store=False)
        assert evaluation.images == (50 if job is TEST_SPLIT and evaluation.provenance["engine"] == "trained" else 30)


def test_close_can_be_repeated(engine: Evaluator) -> None:
    engine.evaluate([STUDENT])
    engine.close()
    engine.close()


# --- the registry -----------------------------------------------------------------------------------------------------


def test_unknown_engine_lists_the_known_ones() -> None:
    known = "analytic, ray, tabular, trained"
    with pytest.raises(UnknownNameError, match=f"unknown engine 'trainde'; known: {known}") as caught:
        make_engine("trainde", MemoryStore())
    assert "Did you mean 'trained'?" in str(caught.value)
    assert set(ENGINES) <= set(known_engines())
    with pytest.raises(ValueError, match="engine 'trained' is registered already"):
        register_engine("trained", TrainedEvaluator)


def test_an_engine_is_taken_as_it_is_and_a_name_with_its_options() -> None:
    given, store = AnalyticEvaluator(), MemoryStore()
    assert make_engine(given, store) is given
    made = make_engine("trained", store, workers=2, device="cpu")
    assert isinstance(made, TrainedEvaluator)
    assert (made.store, made.workers, made.device) == (store, 2, "cpu")
    with pytest.raises(ValueError, match="workers must be an integer of at least 0, got -1"):
        make_engine("trained", store, workers=-1)
    assert resolve_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("device", ["gpu", "cuda:99", ""])
def test_a_device_that_is_not_there_is_told_before_anything_is_trained(device: str) -> None:
    with pytest.raises(ValueError, match="device must be"):
        make_engine("trained", MemoryStore(), device=device)


# --- trained ----------------------------------------------------------------------------------------------------------


def test_nothing_is_trained_twice(recorded: Recorded) -> None:
    # five jobs, two networks: the student's training serves three attacks and two splits, the teacher's two jobs
    assert sorted(recorded.store.trained) == sorted({STUDENT.training_key, TEACHER.training_key})
    assert sorted(recorded.store.evaluated) == sorted(job.key for job in JOBS)
    assert not any(evaluation.from_store for evaluation in recorded.evaluations.values())


def test_trainings_are_reused_between_attacks_and_runs(store: CountingStore) -> None:
    job = tiny.job(tiny.TEACHER, attack="pgd-3")
    (found,) = TrainedEvaluator(store, device="cpu").evaluate([job])
    assert store.trained == [] and store.evaluated == [job.key]
    assert not found.from_store


def test_a_second_run_looks_everything_up(tmp_path: Path) -> None:
    def modified() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}

    jobs = [STUDENT, OTHER_ATTACK]
    first = TrainedEvaluator(FolderStore(tmp_path), device="cpu").evaluate(jobs)
    before = modified()
    announced: list[Job] = []
    second = TrainedEvaluator(FolderStore(tmp_path), device="cpu").evaluate(jobs, lambda job, _: announced.append(job))
    assert modified() == before and len(before) == 4  # one training in two files, two evaluations
    assert announced == jobs
    assert [evaluation.from_store for evaluation in (*first, *second)] == [False, False, True, True]
    assert list(map(timeless, first)) == list(map(timeless, second))


def test_budgets_share_an_evaluation(store: CountingStore) -> None:
    found = TrainedEvaluator(store, device="cpu").evaluate([tiny.job(budget=budget) for budget in (1.0, 2.0, 3.0)])
    assert len(store.evaluated) == 1
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])  # each imports torch and the digits
def test_result_is_the_same_in_this_process_and_in_workers(workers: int, recorded: Recorded) -> None:
    fresh = CountingStore()
    engine = TrainedEvaluator(fresh, workers=workers, device="cpu")
    try:
        found = engine.evaluate([STUDENT, TEACHER, TRANSFER])
    finally:
        engine.close()
    engine.close()
    expected = [recorded.evaluations[job] for job in (STUDENT, TEACHER, TRANSFER)]
    assert list(map(timeless, found)) == list(map(timeless, expected))
    for key in (STUDENT.training_key, TEACHER.training_key):
        (report, weights), (other_report, other_weights) = fresh.load_training(key), recorded.store.load_training(key)
        assert weights == other_weights
        assert report["losses"] == other_report["losses"]


def interrupt(job: Job, evaluation: Evaluation) -> None:
    """Ctrl-C as soon as the first evaluation is there."""
    raise KeyboardInterrupt


def test_results_come_before_the_next_training() -> None:
    fresh = CountingStore()
    with pytest.raises(KeyboardInterrupt):
        TrainedEvaluator(fresh, device="cpu").evaluate([STUDENT, TEACHER], interrupt)
    assert fresh.trained == [TEACHER.training_key] and fresh.evaluated == [TEACHER.key]  # the largest first


def test_an_interrupted_call_keeps_what_was_done(store: CountingStore) -> None:
    jobs = [STUDENT, OTHER_ATTACK]
    with pytest.raises(KeyboardInterrupt):
        TrainedEvaluator(store, device="cpu").evaluate(jobs, interrupt)
    assert len(store.evaluated) == 1
    done = store.evaluated[0]
    found = TrainedEvaluator(store, device="cpu").evaluate(jobs)
    assert [evaluation.from_store for evaluation in found] == [job.key == done for job in jobs]
    assert sorted(store.evaluated) == sorted(job.key for job in jobs)


def test_white_box_fgsm_is_what_one_computes_by_hand(recorded: Recorded) -> None:
    model, data = network_of(STUDENT, recorded), load_splits("digits", 30).eval
    assert by_hand(recorded.evaluations[STUDENT]) == verdicts(model, data.labels, fgsm(model, data))


def test_attack_through_the_teacher_is_the_teachers_attack_on_the_student(recorded: Recorded) -> None:
    teacher, student = network_of(TEACHER, recorded), network_of(STUDENT, recorded)
    data = load_splits("digits", 30).eval
    assert by_hand(recorded.evaluations[TRANSFER]) == verdicts(student, data.labels, fgsm(teacher, data))
    assert recorded.evaluations[TRANSFER].robust != recorded.evaluations[STUDENT].robust


def test_an_image_that_only_the_attack_sets_right_is_not_robust(recorded: Recorded) -> None:
    teacher, student = network_of(TEACHER, recorded), network_of(STUDENT, recorded)
    data = load_splits("digits", 30).test
    clean, attacked = (student(batch) for batch in fgsm(teacher, data))
    assert ((clean.argmax(1) != data.labels) & (attacked.argmax(1) == data.labels)).any()
    job = tiny.job(attack_source="teacher", split="test")
    trainings = [recorded.store.load_training(each.training_key) for each in (STUDENT, TEACHER)]
    assert trainings[0] is not None
    evaluation = work.measure(job, *trainings[0], through=trainings[1])[0]
    assert by_hand(evaluation) == verdicts(student, data.labels, fgsm(teacher, data))
    loss = torch.nn.functional.cross_entropy(attacked, data.labels).item()
    assert evaluation.adversarial_loss == pytest.approx(loss, rel=1e-5)


def network_of(job: Job, recorded: Recorded) -> torch.nn.Module:
    training = recorded.store.load_training(job.training_key)
    assert training is not None
    return work.load_network(job, training[1])


def fgsm(model: torch.nn.Module, data: object) -> tuple[torch.Tensor, torch.Tensor]:
    """(images, images + ε · sign of the loss's gradient), ε = 0.2, clipped to [0, 1]."""
    images = data.images().requires_grad_()  # type: ignore[attr-defined]
    torch.nn.functional.cross_entropy(model(images), data.labels).backward()  # type: ignore[attr-defined]
    return images.detach(), (images + 0.2 * images.grad.sign()).clamp(0, 1).detach()


def verdicts(
    model: torch.nn.Module, labels: torch.Tensor, images: tuple[torch.Tensor, torch.Tensor]
) -> tuple[float, float, tuple[bool, ...]]:
    """(clean accuracy, robust accuracy, which images stay correct)."""
    clean, attacked = (model(batch).argmax(1) == labels for batch in images)
    robust = clean & attacked
    return clean.float().mean().item(), robust.float().mean().item(), tuple(robust.tolist())


def test_attack_of_the_test_split_uses_a_balanced_part_of_it(recorded: Recorded) -> None:
    everything = tiny.job(split="test")
    training = recorded.store.load_training(STUDENT.training_key)
    assert training is not None
    whole, _ = work.measure(everything, *training)
    assert whole.images == 240
    assert recorded.evaluations[TEST_SPLIT].images == 50
    assert by_hand(whole) != by_hand(recorded.evaluations[TEST_SPLIT])


DIVERGING = {
    "loss": tiny.RECIPE.but(learning_rate=1e30, schedule="constant"),
    # one step, whose loss is still finite; its weights are too, but not what they compute
    "logits": tiny.RECIPE.but(learning_rate=1e30, schedule="constant", batch_size=2000),
}


@pytest.mark.parametrize("case", DIVERGING)
def test_a_diverged_training_is_flagged_and_counts_as_never_right(case: str, tmp_path: Path) -> None:
    jobs = [tiny.job(recipe=DIVERGING[case]), tiny.job(recipe=DIVERGING[case], attack_source="teacher")]
    store = FolderStore(tmp_path)
    found = TrainedEvaluator(store, device="cpu").evaluate(jobs)
    training = store.load_training(jobs[0].training_key)
    assert training is not None and training[0]["diverged"] == (case == "loss")
    for job, evaluation, lips in zip(jobs, found, (30, 0), strict=True):
        assert evaluation.diverged
        assert (evaluation.clean_accuracy, evaluation.robust_accuracy) == (0.0, 0.0)
        assert evaluation.adversarial_loss == float("inf")
        assert evaluation.robust == (False,) * 30 and len(evaluation.lips) == lips
        stored = store.load_evaluation(job.key)
        assert stored is not None and timeless(stored) == timeless(evaluation)


def test_a_diverged_teacher_gives_no_attack(recorded: Recorded) -> None:
    training = recorded.store.load_training(STUDENT.training_key)
    assert training is not None
    evaluation, _ = work.measure(TRANSFER, *training, through=({"diverged": True, "seconds": 0.0}, b""))
    assert evaluation.zero_perturbations == 1.0 and not evaluation.diverged
    assert evaluation.robust_accuracy == evaluation.clean_accuracy > 0.0
    with pytest.raises(ValueError, match="through must be the teacher's training"):
        work.measure(TRANSFER, *training)


# --- tabular ----------------------------------------------------------------------------------------------------------


def test_tabular_answers_what_was_recorded(recorded: Recorded) -> None:
    found = TabularEvaluator(recorded.store).evaluate(JOBS)
    assert list(map(timeless, found)) == [timeless(recorded.evaluations[job]) for job in JOBS]
    assert all(evaluation.from_store for evaluation in found)


def test_tabular_refuses_what_was_not(recorded: Recorded) -> None:
    unknown = tiny.job(seed=9)
    with pytest.raises(NotRecordedError, match=f"under fgsm on digits .key {unknown.key[:12]}"):
        TabularEvaluator(recorded.store).evaluate([STUDENT, unknown])
    assert unknown.training_key not in recorded.store.trained
