"""The systems of the comparison: what runs each, in which environment, with what settings.

A system is a script beside this file, which prints what `_peer.py` describes. To add one, write its
script and a line in `PEERS`.
"""

from dataclasses import dataclass, field


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
        Learning rates by set, where ``default`` is that of other sets.
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
        return self.rates.get(data, self.rates.get("default", 2e-3)) if self.network else None


REFERENCE = "torch dense"
"""Its accuracy is the target of the times, its time is 1 in the ratios."""

# One rate for all networks unless tuning found better for a system: see README.md.
PEERS = [
    Peer("slide", "slide_network.py", "slide", rates={"amazon670k": 1e-2}),
    Peer(REFERENCE, "torch_full.py", "torch", every_neuron=True, rates={"amazon670k": 1e-2}),
    Peer(
        "torch dense, one-vs-all", "torch_full.py", "torch", ("--loss=binary",), every_neuron=True
    ),
    Peer(
        "torch sampled, uniform",
        "torch_sampled.py",
        "torch",
        ("--proposal=uniform",),
        rates={"amazon670k": 1e-2},
    ),
    Peer(
        "torch sampled, log-uniform",
        "torch_sampled.py",
        "torch",
        ("--proposal=log-uniform",),
        rates={"amazon670k": 1e-2},
    ),
    Peer("Omikuji", "omikuji_trees.py", "omikuji", network=False, wide=False),
    Peer("napkinXC", "napkinxc_trees.py", "napkinxc", network=False, wide=False),
    Peer("scikit-learn MLP", "sklearn_mlp.py", "scikit-learn", wide=False),
    Peer(
        "as SLIDE was published",
        "slide_network.py",
        "slide",
        ("--mode=published",),
        every_neuron=True,
        rates={"amazon670k": 1e-2},
    ),
]

BY_NAME = {peer.name: peer for peer in PEERS}

EPOCHS = {"wordnet": 4, "debian": 5, "gene-go": 10, "amazon670k": 1}


def epochs(data):
    """The number of epochs of the networks on a set."""
    return EPOCHS.get(data, 5)
