"""What the outputs of a task are: where they are read, and what family of losses they have."""

from typing import Literal

# Where outputs are read: the first token of an input, the first token of each word, every token.
Head = Literal["sequence", "token", "span"]
# What outputs are: logits of classes of which one is right, logits of classes of which each is
# right or not, numbers.
Family = Literal["one-of", "any-of", "number"]
