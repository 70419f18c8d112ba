"""Downstream tasks: their rows, inputs, models, losses, scores; a module a concern.

`rows` reads examples, `classification`, `question_answering` and `tagging` say what an example is
and what its scores are, `opening` picks one of them; `models`, `distillation`, `teacher_outputs`
and `objective` train them through the same loop as masked-LM training.
"""
