"""More inputs for a teacher to label: copies of those at hand, some of their tokens replaced.

A small task has too few examples to show a student what its teacher knows. A changed copy needs no
label of its own: the teacher's outputs are its targets.

Source: Tang et al. 2019, *Distilling Task-Specific Knowledge from BERT into Simple Neural
Networks*, sec. 3.2, and Jiao et al. 2020, *TinyBERT*, sec. 3.2, who replace words; here tokens are
replaced, by others as frequent as they are in the task.
"""

import numpy as np
from transformers import PreTrainedTokenizerFast

from distilcli.config.tasks import Augmentation
from distilcli.tasks.inputs import Inputs, without_labels
from distilcli.text.tokenizers import special_ids


def augment(
    inputs: Inputs, augmentation: Augmentation, tokenizer: PreTrainedTokenizerFast, seed: int
) -> Inputs:
    """The inputs, then `copies` times all of them again with other tokens and without labels.

    Args:
        inputs: of the training split.
        augmentation: how many copies, and the share of their tokens that is replaced.
        tokenizer: names the special tokens, which stay and are never put in.
        seed: of the choice; a copy depends on it and on its number alone.
    """
    ordinary = ~np.isin(inputs.token_ids, special_ids(tokenizer))
    pool = inputs.token_ids[ordinary]
    token_ids = [inputs.token_ids]
    for number in range(augmentation.copies):
        random = np.random.default_rng([seed, number])
        chosen = ordinary & (random.random(len(ordinary)) < augmentation.replaced)
        changed = inputs.token_ids.copy()
        if chosen.any():
            changed[chosen] = random.choice(pool, int(chosen.sum()))
        token_ids.append(changed)
    times = augmentation.copies + 1
    nothing = without_labels(inputs).targets
    groups = inputs.group_offsets
    return Inputs(
        token_ids=np.concatenate(token_ids),
        token_types=np.tile(inputs.token_types, times),
        offsets=_repeated(inputs.offsets, times),
        output_positions=np.tile(inputs.output_positions, times),
        output_offsets=_repeated(inputs.output_offsets, times),
        targets=np.concatenate([inputs.targets, *[nothing] * augmentation.copies]),
        group_offsets=None if groups is None else _repeated(groups, times),
    )


def _repeated(offsets: np.ndarray, times: int) -> np.ndarray:
    """Offsets of the same rows, several times end to end."""
    return np.concatenate([[0], np.cumsum(np.tile(np.diff(offsets), times))])
