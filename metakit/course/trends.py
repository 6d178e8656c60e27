"""The exercises of notebook 14, and its questions: a final quiz over the whole course."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from metakit.course.exercises import Answer, Exercise, Mistake
from metakit.course.quizzes import Question

_F64 = torch.float64


def _random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=_F64)


# --- attention_step: one gradient step as a linear attention layer. ---


def _attention(x: Tensor, y: Tensor, queries: Tensor, lr: float) -> Tensor:
    return 2 * lr / len(x) * (queries @ x.T) @ y


def _observe_attention(answer: Answer) -> dict[str, Tensor]:
    x, queries = _random(0, 6, 3), _random(1, 4, 3)
    return {"answers": torch.as_tensor(answer(x, _random(2, 6), queries, 0.1))}


ATTENTION = Exercise(
    name="attention_step",
    observe=_observe_attention,
    right=_attention,
    mistakes=(
        Mistake(
            lambda x, y, queries, lr: lr / len(x) * (queries @ x.T) @ y,
            "The factor 2 of the square's derivative is missing.",
        ),
        Mistake(
            lambda x, y, queries, lr: 2 * lr * (queries @ x.T) @ y,
            "Sum and mean are mixed up: the support loss is a mean over the rows, so divide by their number.",
        ),
        Mistake(
            lambda x, y, queries, lr: (queries @ x.T).softmax(1) @ y,
            "This is softmax attention, a weighted mean of the targets. The gradient step gives the weights as they "
            "are, which may be negative and need not add up to 1.",
        ),
        Mistake(
            lambda x, y, queries, lr: -_attention(x, y, queries, lr),
            "The sign: the step goes downhill, and at w = 0 the error is 0 - y.",
        ),
        Mistake(
            lambda x, y, queries, lr: _attention(x, y, x, lr),
            "These are answers to the support rows. Compare the queries with the support rows: queries @ x.T.",
        ),
    ),
)


# --- break_even: how many tasks until meta-training has paid for itself. ---

_COSTS = ((1000.0, 1.0, 11.0), (1000.0, 2.0, 9.0), (7.0, 0.5, 4.0), (50.0, 0.0, 50.0), (1.0, 9.0, 10.5))


def _break_even(training: float, adapting: float, scratch: float) -> int:
    return math.floor(training / (scratch - adapting)) + 1


def _observe_break_even(answer: Answer) -> dict[str, Tensor]:
    return {"numbers of tasks": torch.tensor([float(answer(*costs)) for costs in _COSTS])}


BREAK_EVEN = Exercise(
    name="break_even",
    observe=_observe_break_even,
    right=_break_even,
    mistakes=(
        Mistake(
            lambda training, adapting, scratch: math.floor(training / scratch) + 1,
            "Adapting is not free: each new task saves scratch - adapting.",
        ),
        Mistake(
            lambda training, adapting, scratch: math.ceil(training / (scratch - adapting)),
            "Where the division has no remainder, both ways cost the same. Cheaper means one task more.",
        ),
        Mistake(
            lambda training, adapting, scratch: math.floor(training / (scratch - adapting)),
            "Rounded down, the last task has not yet paid the rest. Go to the next whole number.",
        ),
        Mistake(
            lambda training, adapting, scratch: training / (scratch - adapting),
            "A number of tasks is a whole number: the first one at which meta-learning is cheaper.",
        ),
        Mistake(
            lambda training, adapting, scratch: math.floor(training / (scratch + adapting)) + 1,
            "The two costs of a task are added. What counts is what a task saves: scratch - adapting.",
        ),
    ),
)

EXERCISES = (ATTENTION, BREAK_EVEN)


def _question(text: str, *answers: tuple[str, str], right: int) -> Question:
    return Question(text, answers, right)


QUESTIONS = (
    _question(
        "What does a meta-learner learn from?",
        ("From rows, as every learner does", "Its inner loop does. Its outer loop learns from whole tasks."),
        (
            "From tasks, each with rows to learn from and rows to be judged on",
            "A task is to it what a row is to others.",
        ),
        ("From other people's networks", "It may start from one, but it learns from tasks."),
        right=1,
    ),
    _question(
        "Why is a task's query set kept apart from its support set?",
        ("To have fewer rows to compute with", "Both sets are computed with."),
        ("Because a learner that remembers its support rows would look perfect", "Only other rows show the curve."),
        ("Because it has other classes", "In a task both sets have the same classes."),
        right=1,
    ),
    _question(
        "The idea of learning to learn is from the 1980s. Why did it wait?",
        ("The chain rule was not known", "It was; gradients through long computations were costly, not unknown."),
        ("It was forbidden", "Nobody forbade it."),
        ("It needs many tasks and passes through many inner loops", "So it waited for data and for computers."),
        right=2,
    ),
    _question(
        "What is a learning algorithm, seen from outside?",
        ("A function from a data set to a predictor", "Meta-learning chooses among such functions."),
        ("A function from an input to an output", "That is the predictor, the thing which comes out."),
        ("A set of weights", "Weights describe a predictor."),
        right=0,
    ),
    _question(
        "Which of these is meta-knowledge, and not meta-learning?",
        ("Meta-training a start from 50,000 tasks", "That is the learning. The start that comes out is the knowledge."),
        ("A table that says: for images, begin with rate 0.4", "Knowledge about learning, however it was found."),
        ("A gradient step on a new task", "That is plain learning, from rows."),
        right=1,
    ),
    _question(
        "In the seven steps, what makes step 7 stop?",
        ("The loss on the tasks trained on", "It would also stop a learner that only knows those by heart."),
        ("An interval over new tasks that lies beyond the target", "New tasks, and not by the luck of the draw."),
        ("A fixed number of steps, always", "That is a budget. It says when to give up."),
        right=1,
    ),
    _question(
        "What is the factor (I - lr H) in the meta-gradient?",
        ("How the adapted weights move when the start moves", "The derivative of the inner step."),
        ("The outer learning rate", "That one multiplies the finished meta-gradient."),
        ("A guard against large numbers", "It can make them larger: H may be negative or long."),
        right=0,
    ),
    _question(
        "The inner loop is written without create_graph=True. What happens?",
        ("An error", "Often there is none, and that is the danger."),
        ("Training gets a meta-gradient without its Hessian term", "First order, without having been asked for."),
        ("Nothing", "The adapted weights are right, and their derivative is not."),
        right=1,
    ),
    _question(
        "A network of 10 inputs, 5 hidden units and 1 output learns targets of pure noise. What do you expect?",
        ("A falling training loss, and no gain on new rows", "A falling loss alone is no evidence of learning."),
        ("A loss that does not move", "Some of the noise can be learned by heart."),
        ("A good fit of new rows", "There is nothing in them to be fitted."),
        right=0,
    ),
    _question(
        "Why can a thousand tasks take one inner step in one backward pass?",
        ("Their weights are shared", "Each has its own; they are stacked."),
        (
            "The tasks' losses are added, and no weight of one is in the loss of another",
            "So each gets its own gradient.",
        ),
        ("The Hessian is diagonal", "It is not, and it is not needed here."),
        right=1,
    ),
    _question(
        "How does Reptile find the direction of its outer step?",
        ("It differentiates the query loss through the inner loop", "That is MAML."),
        ("It goes part of the way to where the inner loop ended", "No second derivative, and no query set."),
        ("It tries random directions", "Evolution does; Reptile follows the weights."),
        right=1,
    ),
    _question(
        "Meta-SGD learned some negative rates. Is that an error?",
        ("Yes, a rate must be positive", "A rate that a person sets should be. A learned one serves the whole step."),
        (
            "No: only the query loss after the whole step was asked for",
            "A weight may go uphill to make room for others.",
        ),
        ("Yes, the outer rate was too large", "It also happens with a small one."),
        right=1,
    ),
    _question(
        "Search over network structures: which loss chooses the structure?",
        ("The training loss", "The largest network would win, for its memory."),
        ("The validation loss", "And a third set judges the winner, once."),
        ("The test loss", "Then nothing is left that could judge it honestly."),
        right=1,
    ),
    _question(
        "Which rival must a structure search beat before it is believed?",
        ("Random search with the same budget", "Simple, and often hard to beat."),
        ("A network without hidden layers", "Worth a look, but not the same budget."),
        ("Its own first candidate", "Any search that tries twice will do that."),
        right=0,
    ),
    _question(
        "Five ways, one shot. What accuracy is chance?",
        ("Half", "That is for two classes."),
        ("A fifth", "One class out of five."),
        ("One in a hundred", "That would be a hundred ways."),
        right=1,
    ),
    _question(
        "What does a prototype classifier compute for a new class?",
        ("The mean of the class's embedded support drawings", "No gradient step: the nearest mean names the class."),
        ("A gradient step for each drawing", "That is the gradient way, MAML."),
        ("A list of rules", "It has an embedding and means, no rules."),
        right=0,
    ),
    _question(
        "A result says 98%, transductive. What must you know?",
        ("Batch norm saw the query drawings together", "An inductive result, each by itself, can be lower."),
        ("That it is from a GPU", "The word says nothing about the device."),
        ("That 2% of the drawings are wrong", "It is about how the answers were made, not about the data."),
        right=0,
    ),
    _question(
        "How does first order save memory?",
        ("It lets the graph of each inner step go at once", "So its memory does not grow with the steps."),
        ("It has fewer weights", "It has the same ones."),
        ("It uses smaller numbers", "The same type of numbers."),
        right=0,
    ),
    _question(
        "A learner does well on new tasks like those of its training. What about other tasks?",
        ("It will do well, since it has learned to learn", "It has learned to learn tasks of one distribution."),
        ("Measure it, beside a baseline that needs no training", "Adaptation may gain something and still lose to it."),
        ("It will fail completely", "That, too, is a guess. Near its tasks it may do well."),
        right=1,
    ),
    _question(
        "A linear attention layer read five examples and answered. In what sense did it learn?",
        ("Its weights were trained on the examples", "No weight changed while it read."),
        ("Its output is that of a gradient step on the examples", "The step is in the forward pass."),
        ("It did not: it had seen the answers before", "The task was new."),
        right=1,
    ),
)
