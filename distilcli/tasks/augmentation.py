"""More inputs for a teacher to label: copies of those at hand, some of their tokens replaced.

A small task has too few examples to show a student what its teacher knows. A changed copy needs no
label of its own: the teacher's outputs are its targets.

Source: Tang et al. 2019, *Distilling Task-Specific Knowledge from BERT into Simple Neural
Networks*, sec. 3.2, and Jiao et al. 2020, *TinyBERT*, sec. 3.2, who replace words; here tokens are
replaced, by others as frequent as they are in the task.
"""

from dataclasses import replace

import numpy as np
from transformers import PreTrainedTokenizerFast

from distilcli.task_config import Augmentation
from distilcli.tasks.inputs import Inputs, without_labels


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
    ordinary = ~np.isin(inputs.token_ids, tokenizer.all_special_ids)
    pool = inputs.token_ids[ordinary]
    copies = [inputs]
    for number in range(augmentation.copies):
        random = np.random.default_rng([seed, number])
        chosen = np.flatnonzero(ordinary & (random.random(len(ordinary)) < augmentation.replaced))
        token_ids = inputs.token_ids.copy()
        token_ids[chosen] = random.choice(pool, len(chosen)) if len(pool) else []
        copies.append(replace(without_labels(inputs), token_ids=token_ids))
    return _end_to_end(copies)


def _end_to_end(parts: list[Inputs]) -> Inputs:
    """Several inputs of the same shapes as one."""
    return Inputs(
        token_ids=np.concatenate([part.token_ids for part in parts]),
        token_types=np.concatenate([part.token_types for part in parts]),
        offsets=_offsets([part.offsets for part in parts]),
        output_positions=np.concatenate([part.output_positions for part in parts]),
        output_offsets=_offsets([part.output_offsets for part in parts]),
        targets=np.concatenate([part.targets for part in parts]),
    )


def _offsets(parts: list[np.ndarray]) -> np.ndarray:
    lengths = np.concatenate([np.diff(part) for part in parts])
    return np.concatenate([[0], np.cumsum(lengths)])
