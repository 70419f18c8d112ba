"""The sections of one run, in their order."""

from distilcli.report.blocks import Section
from distilcli.report.export_sections import export_blocks
from distilcli.report.run_facts import RunFacts
from distilcli.report.run_making import cost_blocks, made_blocks
from distilcli.report.run_models import layer_blocks, size_blocks
from distilcli.report.run_quality import quality_blocks
from distilcli.report.run_training import training_blocks


def sections_of_run(run: RunFacts, prefix: str = "") -> list[Section]:
    """All sections of a run, those left out for which there is nothing.

    Args:
        run: what its folder holds.
        prefix: begins the ids of its sections and figures.
    """
    of = run.name if prefix else ""
    found = [
        Section(f"{prefix}quality", "Quality", quality_blocks(run), of),
        Section(f"{prefix}training", "Training", training_blocks(run, prefix), of),
        Section(f"{prefix}size", "Size and speed", size_blocks(run, prefix), of),
        Section(f"{prefix}exports", "Exports", export_blocks(run.exports, prefix), of),
        Section(f"{prefix}layers", "The student", layer_blocks(run, prefix), of),
        Section(f"{prefix}cost", "Cost", cost_blocks(run), of),
        Section(f"{prefix}made", "How it was made", made_blocks(run), of),
    ]
    return [section for section in found if section.blocks]
