"""Sizes of published models, and what their papers say of their quality and speed.

- Sanh, Debut, Chaumond, Wolf 2019, DistilBERT, tables 1 and 3: mean of the dev scores of GLUE of
  ELMo 68.7, BERT-base 79.5, DistilBERT 77.0; millions of parameters 180, 110, 66; seconds for the
  dev set of STS-B, one by one on a CPU, 895, 668, 410.
- Devlin, Chang, Lee, Toutanova 2019, BERT: 340 M parameters of BERT-large.
- Radford et al. 2019, GPT-2: 1.5 B. Shoeybi et al. 2019, Megatron-LM: 8.3 B. Raffel et al. 2020,
  T5: 11 B. Brown et al. 2020, GPT-3: 175 B.
"""

from typing import NamedTuple


class Published(NamedTuple):
    """A model of the literature.

    Attributes:
        name: as it is called.
        year: of its paper.
        parameters: how many it has.
        glue: mean of the dev scores of GLUE in percent (Sanh et al. 2019); None: not given there.
        seconds: for the same inputs on a CPU (Sanh et al. 2019); None: not given there.
    """

    name: str
    year: int
    parameters: float
    glue: float | None = None
    seconds: float | None = None


# What the scores and seconds of the others are shares of.
REFERENCE = Published("BERT-base", 2018, 110e6, 79.5, 668.0)
ITS_STUDENT = Published("DistilBERT", 2019, 66e6, 77.0, 410.0)
MODELS = (
    Published("ELMo", 2018, 180e6, 68.7, 895.0),
    REFERENCE,
    Published("BERT-large", 2018, 340e6),
    Published("GPT-2", 2019, 1.5e9),
    ITS_STUDENT,
    Published("Megatron-LM", 2019, 8.3e9),
    Published("T5-11B", 2019, 11e9),
    Published("GPT-3", 2020, 175e9),
)
SOURCE = (
    "Grey: published models. Sizes are those of their papers. Their scores are means of the dev "
    "sets of GLUE as shares of BERT-base's, and their latencies those on a CPU as shares of "
    "BERT-base's (Sanh et al. 2019, tables 1 and 3), so they are of other data and other machines."
)
