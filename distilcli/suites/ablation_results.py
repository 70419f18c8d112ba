"""What an ablation comes to: medians over seeds, and each difference to the base.

A change is compared with the base seed by seed: what a seed decides (order, masks, new weights) is
the same in both runs, so that it does not blur their difference.
"""

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from distilcli.config.ablation import BASE, Ablation
from distilcli.suites.intervals import half_width
from distilcli.suites.results import Results
from distilcli.suites.run_lengths import RunLength

# Lengths by (change, seed).
Lengths = Mapping[tuple[str, int], RunLength]


def ablation_table(ablation: Ablation, results: Results, lengths: Lengths) -> dict[str, Any]:
    """Medians and ranges of each score, lengths, and differences to the base, by change.

    Args:
        ablation: which was run.
        results: scores of each run that is done.
        lengths: of the same runs, as far as they are known.
    """
    published = ablation.published.differences if ablation.published else {}
    base = _runs_of(BASE, results)
    changes: dict[str, Any] = {}
    for name in (BASE, *ablation.changes):
        found = _runs_of(name, results)
        if not found:
            continue
        changes[name] = {
            "settings": ablation.changes.get(name, {}),
            "scores": {score: _summary(score, found) for score in _scores_of(found)},
            "length": _median_length(lengths, name, found),
        }
        if name != BASE and base:
            changes[name]["differences"] = _differences(found, base)
        if name in published:
            changes[name]["published"] = published[name]
    return {
        "ablation": ablation.name,
        "equal": ablation.equal,
        "budget": ablation.budget,
        "published": ablation.published.source if ablation.published else None,
        "changes": changes,
    }


def _runs_of(name: str, results: Results) -> dict[int, dict[str, float]]:
    """The scores of a change, by seed."""
    return {seed: scores for (_, change, seed), scores in sorted(results.items()) if change == name}


def _scores_of(found: Mapping[int, Mapping[str, float]]) -> list[str]:
    """The names of the scores that all runs have."""
    first, *others = found.values()
    return [name for name in first if all(name in scores for scores in others)]


def _summary(score: str, found: Mapping[int, Mapping[str, float]]) -> dict[str, Any]:
    values = {seed: scores[score] for seed, scores in found.items()}
    return {
        "median": statistics.median(values.values()),
        "lowest": min(values.values()),
        "highest": max(values.values()),
        "seeds": {str(seed): value for seed, value in values.items()},
    }


def _median_length(lengths: Lengths, name: str, seeds: Iterable[int]) -> dict[str, float] | None:
    known = [lengths[name, seed] for seed in seeds if (name, seed) in lengths]
    keys = ("steps", "tokens", "seconds")
    if not known:
        return None
    return {key: statistics.median(getattr(length, key) for length in known) for key in keys}


def _differences(
    found: Mapping[int, Mapping[str, float]], base: Mapping[int, Mapping[str, float]]
) -> dict[str, Any]:
    """Of each score: the mean of the differences of runs with the same seed, and how sure it is."""
    seeds = sorted(found.keys() & base.keys())
    differences: dict[str, Any] = {}
    if not seeds:
        return differences
    of_base = _scores_of(base)
    for score in (name for name in _scores_of(found) if name in of_base):
        pairs = [found[seed][score] - base[seed][score] for seed in seeds]
        mean, half = statistics.fmean(pairs), half_width(pairs)
        interval = None if half is None else [mean - half, mean + half]
        differences[score] = {"mean": mean, "interval": interval, "seeds": len(seeds)}
    return differences
