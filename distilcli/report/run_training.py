"""How a run's training went: held-out scores, losses, the optimiser and the pace over the steps."""

from distilcli.report.blocks import Block, Picture
from distilcli.report.curves import Curve, Panel, loss_panel, over_steps, score_panel
from distilcli.report.measured import measured_models, the_teacher
from distilcli.report.run_facts import RunFacts
from distilcli.report.run_quality import reference_of, shown_scores
from distilcli.report.series import HELD_OUT, TOTAL, series_of, terms_of
from distilcli.report.words import name_of_term, significant


def training_blocks(run: RunFacts, prefix: str) -> list[Block]:
    """Held-out scores over the steps, loss terms over the steps, and the pace."""
    found = [
        picture
        for picture in (
            held_out_picture(run, prefix),
            loss_picture(run, prefix),
            pace_picture(run, prefix),
        )
        if picture is not None
    ]
    return list(found)


def held_out_picture(run: RunFacts, prefix: str) -> Picture | None:
    """Held-out scores over the steps beside the teacher's; None with fewer than two of them."""
    teacher = the_teacher(measured_models(run.results))
    panels = []
    for score in shown_scores(run):
        series = series_of(run.records, HELD_OUT + score)
        if len(series) > 1:
            panels.append(
                score_panel(score, [Curve("student", series)], reference_of(teacher, score))
            )
    if not panels:
        return None
    caption = "Scores on held-out data while the student was trained."
    if any(panel.reference is not None for panel in panels):
        caption += (
            " Dashed: the teacher's score as eval measured it, which may have looked at more of "
            "the held-out data."
        )
    return over_steps(f"{prefix}held-out", "Held-out quality", caption, panels, 3)


def loss_picture(run: RunFacts, prefix: str) -> Picture | None:
    """The total and each term over the steps; None where there are fewer than two records."""
    terms = terms_of(run.records, run.task)
    named = {TOTAL: "total"} | {
        key: f"{name_of_term(name)}{_weight(run, name)}" for key, name in terms.items()
    }
    if len(terms) == 1:
        del named[TOTAL]
    panels: list[Panel] = []
    for key, title in named.items():
        series = series_of(run.records, key)
        if len(series) > 1:
            panels.append(loss_panel(title, [Curve("", series, rough=True)]))
    if not panels:
        return None
    caption = (
        "Losses on training data: the total, and each term before its weight. Pale: each step. "
        "Strong: the mean of a twentieth of the run around each step."
    )
    return over_steps(f"{prefix}losses", "Losses by term", caption, panels, 2)


def _weight(run: RunFacts, name: str) -> str:
    section = (run.settings.get("loss") or {}).get(name)
    weight = section.get("weight") if isinstance(section, dict) else None
    if isinstance(weight, int | float):
        return f" (weight {weight:g})"
    return "" if weight is None else " (weight changes)"


def pace_picture(run: RunFacts, prefix: str) -> Picture | None:
    """Learning rate, norm of the gradient and tokens a second over the steps."""
    wanted = {
        "learning rate": ("optim/lr", False),
        "gradient norm": ("optim/grad_norm", True),
        "tokens a second": ("speed/tokens_per_second", False),
    }
    panels = []
    for title, (key, rough) in wanted.items():
        series = series_of(run.records, key)
        if len(series) > 1:
            panels.append(Panel(title, significant, [Curve("", series, rough=rough)]))
    if not panels:
        return None
    caption = "The norm is that of the gradient before it is clipped."
    return over_steps(f"{prefix}pace", "Optimiser and pace", caption, panels, 3)
