"""Dynamic masking: which tokens are hidden, and what stands in their place.

A mask is a pure function of (seed, epoch, sample): it does not depend on the batch, the rank or
the order in which samples are drawn, so a run may be cut in any way, and resumed, with the same
masks. The randomness is a counter hash (splitmix64) of those numbers and the token's position,
computed for a whole micro-batch at once.

With whole words, the words of a sequence take part in the choice instead of its tokens, and all
tokens of a word that is chosen are. What stands in place of each is decided for each by itself, as
in the BERT release. That leaves out a word that has more tokens than are still to be chosen; here
the choice ends at the word with which it comes nearest to its share.

Source: Devlin et al. 2019, sec. 3.1 (15 %, 80/10/10); Liu et al. 2019, sec. 4.1 (a new mask every
epoch); the DistilBERT release (choice weighted by count^-smoothing); the BERT release of May 2019,
create_pretraining_data.py (whole words).
"""

import numpy as np
from jaxtyping import Bool, Int32, Int64, UInt64
from transformers import PreTrainedTokenizerFast

from distilcli.config.data import MaskingConfig
from distilcli.text.tokenizers import special_ids
from distilcli.text.word_joints import word_joints

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_STREAMS = np.uint64(3)
_CHOICE, _ACTION, _REPLACEMENT = (np.uint64(stream) for stream in range(3))


class Masker:
    """Masks packed sequences of one vocabulary.

    Args:
        config: shares, probability, smoothing, and whether words are whole.
        tokenizer: gives [MASK] and the special ids, which are never chosen and never inserted.
        vocab_size: ids in the model's vocabulary.
        token_counts: how often each id occurs in the training split, int64 [vocab_size].
        seed: of every mask.

    Raises:
        ModelError: words are to be whole, and the vocabulary does not tell where they begin.
    """

    def __init__(
        self,
        config: MaskingConfig,
        tokenizer: PreTrainedTokenizerFast,
        vocab_size: int,
        token_counts: Int64[np.ndarray, " vocab"],
        seed: int,
    ) -> None:
        self.config = config
        self.seed = seed
        self.mask_id = np.int32(tokenizer.mask_token_id)
        self._is_special = np.zeros(vocab_size, dtype=bool)
        self._is_special[special_ids(tokenizer)] = True
        # An id that the tokenizer never produces (a padded-up vocabulary) must not be inserted.
        tokenizer_ids = np.zeros(vocab_size, dtype=bool)
        tokenizer_ids[: len(tokenizer)] = True
        self._replacements = np.flatnonzero(~self._is_special & tokenizer_ids).astype(np.int32)
        counts = np.maximum(token_counts, 1).astype(np.float64)
        self._inverse_weight = counts**config.smoothing
        self._joints = word_joints(tokenizer, vocab_size) if config.whole_words else None

    def mask(
        self,
        input_ids: Int32[np.ndarray, " tokens"],
        lengths: Int64[np.ndarray, " sequences"],
        sample_ids: Int64[np.ndarray, " sequences"],
        epoch: int | Int64[np.ndarray, " sequences"],
    ) -> tuple[Int32[np.ndarray, " tokens"], Bool[np.ndarray, " tokens"]]:
        """Hide tokens of packed sequences.

        In every sequence exactly round(mlm_probability * ordinary tokens) are chosen, at least
        one where there is one. Of whole words as many are as come nearest to that number of
        tokens, of two numbers that are as near the larger one.

        With an mlm_probability of 0 none is.

        Returns:
            The input with replacements, and which positions were chosen.
        """
        if self.config.mlm_probability == 0:
            return input_ids.copy(), np.zeros(len(input_ids), dtype=bool)
        sequence_of = np.repeat(np.arange(len(lengths)), lengths)
        starts = np.cumsum(lengths) - lengths
        position = _positions(lengths, sequence_of)
        keys = self._sequence_keys(sample_ids, epoch)[sequence_of]

        chosen = self._choose(input_ids, sequence_of, starts, _draw(keys, position, _CHOICE))
        action = _uniform(_draw(keys, position, _ACTION))
        to_mask = chosen & (action < self.config.mask_share)
        to_random = chosen & ~to_mask & (action < self.config.mask_share + self.config.random_share)
        masked = np.where(to_mask, self.mask_id, input_ids)
        draws = _draw(keys[to_random], position[to_random], _REPLACEMENT)
        masked[to_random] = self._replacements[draws % np.uint64(len(self._replacements))]
        return masked, chosen

    def sample(
        self,
        lengths: Int64[np.ndarray, " sequences"],
        sample_ids: Int64[np.ndarray, " sequences"],
        epoch: int | Int64[np.ndarray, " sequences"],
        share: float,
    ) -> Bool[np.ndarray, " tokens"]:
        """A random share of all tokens, independent of the mask and as reproducible."""
        if share in (0.0, 1.0):
            return np.full(int(lengths.sum()), share == 1.0)
        sequence_of = np.repeat(np.arange(len(lengths)), lengths)
        # Hashed once more, so that no draw is one that the mask was made with.
        keys = _mix(self._sequence_keys(sample_ids, epoch))[sequence_of]
        return _uniform(_draw(keys, _positions(lengths, sequence_of), _CHOICE)) < share

    def _choose(
        self,
        input_ids: Int32[np.ndarray, " tokens"],
        sequence_of: Int64[np.ndarray, " tokens"],
        starts: Int64[np.ndarray, " sequences"],
        draws: UInt64[np.ndarray, " tokens"],
    ) -> Bool[np.ndarray, " tokens"]:
        """Weighted choice without replacement: the first arrivals of an exponential race."""
        ordinary = ~self._is_special[input_ids]
        num_ordinary = np.bincount(sequence_of[ordinary], minlength=len(starts))
        quota = np.floor(self.config.mlm_probability * num_ordinary + 0.5).astype(np.int64)
        quota = np.where(num_ordinary > 0, np.maximum(quota, 1), 0)
        if self._joints is not None:
            return self._choose_words(
                input_ids, sequence_of, draws, np.flatnonzero(ordinary), quota
            )
        arrival = -np.log(_uniform(draws)) * self._inverse_weight[input_ids]
        arrival[~ordinary] = np.inf
        order = np.lexsort((arrival, sequence_of))
        rank = np.arange(len(order)) - starts[sequence_of[order]]
        chosen = np.zeros(len(input_ids), dtype=bool)
        chosen[order] = rank < quota[sequence_of[order]]
        return chosen

    def _choose_words(
        self,
        input_ids: Int32[np.ndarray, " tokens"],
        sequence_of: Int64[np.ndarray, " tokens"],
        draws: UInt64[np.ndarray, " tokens"],
        places: Int64[np.ndarray, " ordinary"],
        quota: Int64[np.ndarray, " sequences"],
    ) -> Bool[np.ndarray, " tokens"]:
        """The same race between words: of each, its first token's draw and its rarest one's weight.

        A word occurs no more often than its rarest token does.

        Args:
            input_ids: of all tokens.
            sequence_of: the sequence of each.
            draws: of each.
            places: of ordinary tokens, ascending.
            quota: how many tokens of each sequence to choose.
        """
        chosen = np.zeros(len(input_ids), dtype=bool)
        if not len(places):
            return chosen
        first = self._first_of_words(input_ids, sequence_of, places)
        sizes = np.diff(first, append=len(places))
        sequence = sequence_of[places[first]]
        weights = np.minimum.reduceat(self._inverse_weight[input_ids[places]], first)
        arrival = -np.log(_uniform(draws[places[first]])) * weights
        order = np.lexsort((arrival, sequence))
        sizes_before = np.cumsum(sizes[order]) - sizes[order]
        # The words of a sequence stay together in `order`, so each sequence begins where it did.
        is_first = np.diff(sequence, prepend=-1) > 0
        sizes_before -= np.maximum.accumulate(np.where(is_first, sizes_before, 0))
        # Nearer with the word than without: before + after <= 2 * quota.
        nearer = 2 * sizes_before + sizes[order] <= 2 * quota[sequence]
        words = np.zeros(len(first), dtype=bool)
        words[order] = nearer | is_first
        chosen[places] = np.repeat(words, sizes)
        return chosen

    def _first_of_words(
        self,
        input_ids: Int32[np.ndarray, " tokens"],
        sequence_of: Int64[np.ndarray, " tokens"],
        places: Int64[np.ndarray, " ordinary"],
    ) -> Int64[np.ndarray, " words"]:
        """Which of the ordinary tokens are the first of their word, as indices into `places`."""
        assert self._joints is not None
        # After a special token, too: nothing goes on with one.
        begins = self._joints.begins(input_ids)[places]
        begins[1:] |= np.diff(sequence_of[places]) > 0
        return np.flatnonzero(begins)

    def _sequence_keys(
        self,
        sample_ids: Int64[np.ndarray, " sequences"],
        epoch: int | Int64[np.ndarray, " sequences"],
    ) -> UInt64[np.ndarray, " sequences"]:
        run_key = _mix(np.array([self.seed], dtype=np.uint64))
        # Arrays wrap around in silence, as a hash wants it; scalars would warn.
        epochs = np.atleast_1d(np.asarray(epoch, dtype=np.uint64))
        epoch_key = _mix(run_key + epochs * _GOLDEN)
        return _mix(epoch_key + sample_ids.astype(np.uint64) * _GOLDEN)


def _positions(
    lengths: Int64[np.ndarray, " sequences"], sequence_of: Int64[np.ndarray, " tokens"]
) -> UInt64[np.ndarray, " tokens"]:
    """Position of each token in its own sequence."""
    starts = np.cumsum(lengths) - lengths
    positions: np.ndarray = (np.arange(len(sequence_of)) - starts[sequence_of]).astype(np.uint64)
    return positions


def _draw(
    keys: UInt64[np.ndarray, " draws"], position: UInt64[np.ndarray, " draws"], stream: np.uint64
) -> UInt64[np.ndarray, " draws"]:
    return _mix(keys + (position * _STREAMS + stream + np.uint64(1)) * _GOLDEN)


def _mix(state: UInt64[np.ndarray, " draws"]) -> UInt64[np.ndarray, " draws"]:
    """The output function of splitmix64 (Steele, Lea, Flood 2014, fig. 17)."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = state ^ (state >> np.uint64(31))
    return mixed


def _uniform(draws: UInt64[np.ndarray, " draws"]) -> np.ndarray:
    """Uniform in (0, 1): 52 bits, and half a step away from 0 so that its logarithm is finite."""
    return ((draws >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
