"""The systems of the comparison: what runs each, in which environment, with what settings.

A system is a script beside this file, which prints what `_peer.py` describes. To add one, write its
script and a line in `PEERS`.
"""

from dataclasses import dataclass, field

OTHER_RATE = 4e-3
"""Learning rate on sets for which none was chosen; ``--rates`` chooses one."""


@dataclass(frozen=True)
class Peer:
    """One row of the table.

    Attributes
    ----------
    name : str
    script : str
        The worker, beside this file.
    environment : str
        A name in `environments.ENVIRONMENTS`, or ``"slide"``.
    arguments : tuple of str
        Of the worker, beside those that all have.
    network : bool
        Whether it has epochs and a learning rate.
    every_neuron : bool
        Whether a step costs so much on very wide layers that only a few are timed there.
    wide : bool
        Whether it is run on the made wide set unless asked for.
    rates : dict
        Learning rates by set; `OTHER_RATE` on other sets.
    """

    name: str
    script: str
    environment: str
    arguments: tuple[str, ...] = ()
    network: bool = True
    every_neuron: bool = False
    wide: bool = True
    rates: dict = field(default_factory=dict)

    def rate(self, data):
        """The learning rate on that set; None without epochs."""
        return self.rates.get(data, OTHER_RATE) if self.network else None


REFERENCE = "torch dense"
"""Its accuracy is the target of the times, its time is 1 in the ratios."""

# How they were chosen: README.md.
RATES = {"wordnet": 8e-3, "gene-go": 8e-3, "debian": 2e-3, "amazon670k": 1e-2}
LAZY_RATES = {"wordnet": 8e-3, "gene-go": 1.6e-2, "debian": 2e-3, "amazon670k": 1e-2}
ONE_VS_ALL_RATES = {"wordnet": 8e-3, "gene-go": 8e-3, "debian": 4e-3}
TORCH_RATES = LAZY_RATES
TORCH_ONE_VS_ALL_RATES = {"wordnet": 8e-3, "gene-go": 8e-3, "debian": 4e-3, "amazon670k": 1e-2}
TORCH_SAMPLED_RATES = {"wordnet": 1.6e-2, "gene-go": 1.6e-2, "debian": 2e-3, "amazon670k": 1e-2}


def _slide(name, mode, rates=RATES, **more):
    return Peer(name, "slide_network.py", "slide", (f"--mode={mode}",), rates=rates, **more)


def _torch(name, script, argument, rates=TORCH_RATES, **more):
    return Peer(name, script, "torch", (argument,), rates=rates, **more)


PEERS = [
    _slide("slide", "auto"),
    _slide("slide, lazy Adam", "lazy", LAZY_RATES),
    _slide("slide, lazy Adam, bfloat16", "bfloat16", LAZY_RATES),
    _slide("slide, fast", "fast", wide=False),
    _slide("slide, fast, one-vs-all", "one-vs-all", ONE_VS_ALL_RATES, wide=False),
    _slide("slide, 1,000 shared", "shared"),
    _torch(REFERENCE, "torch_full.py", "--loss=log-softmax", every_neuron=True),
    _torch(
        "torch dense, one-vs-all",
        "torch_full.py",
        "--loss=binary",
        TORCH_ONE_VS_ALL_RATES,
        every_neuron=True,
    ),
    _torch("torch sampled, uniform", "torch_sampled.py", "--proposal=uniform", TORCH_SAMPLED_RATES),
    _torch(
        "torch sampled, log-uniform",
        "torch_sampled.py",
        "--proposal=log-uniform",
        TORCH_SAMPLED_RATES,
    ),
    Peer("Omikuji", "omikuji_trees.py", "omikuji", network=False, wide=False),
    Peer("napkinXC", "napkinxc_trees.py", "napkinxc", network=False, wide=False),
    Peer("scikit-learn MLP", "sklearn_mlp.py", "scikit-learn", wide=False),
    _slide("as SLIDE was published", "published", RATES, every_neuron=True),
    _slide("as published, deferred Adam", "deferred", RATES, every_neuron=True),
]

BY_NAME = {peer.name: peer for peer in PEERS}

EPOCHS = {"wordnet": 4, "debian": 4, "gene-go": 5, "amazon670k": 1}
"""Until about where P@1 stops rising."""


def epochs(data):
    """The number of epochs of the networks on a set."""
    return EPOCHS.get(data, 5)
