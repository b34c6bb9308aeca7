"""Networks are told apart by all that changes what they give."""

import collections
import functools
import re
import subprocess
import sys
import threading
import types

import numpy as np
import pytest
import torch
from reference.images import MeanColours
from torch import nn

from skwsdhq import ImageLoader
from skwsdhq.backbones import Backbone
from skwsdhq.backbones._key import UnknownStateError, network_key

SCALE = 2.0


def key(backbone):
    return network_key(backbone, None)


class Net:
    """What people write around a network of another library."""

    def __init__(self, state, **more):
        self.state = state
        vars(self).update(more)

    def encode(self, batch):
        return batch.mean(axis=(1, 2)) * self.state

    __call__ = encode


class Other(Net):
    def encode(self, batch):
        return batch.max(axis=(1, 2)) * self.state

    __call__ = encode


class Slotted:
    __slots__ = ("state",)

    def __init__(self, state):
        self.state = state

    def __call__(self, batch):
        return batch * self.state


class Forgetful(Net):
    """Its pickles say nothing of its state."""

    def __getstate__(self):
        return {}


def closing_over(value):
    def network(batch):
        return batch.mean(axis=(1, 2)) + value

    return network


def default(value):
    def network(batch, by=value):
        return batch * by

    return network


def keyword(value):
    def network(batch, *, by=value):
        return batch * by

    return network


def decorated(function):
    @functools.wraps(function)
    def network(batch):
        return function(batch)

    return network


def of_global(value):
    """A function of its own, whose globals hold another value."""
    space = {"np": np, "by": value, "__name__": "__main__"}
    exec("def network(batch):\n    return batch * by", space)
    return space["network"]


def of_module(value):
    """A function that asks a module of the user's own for a value, or for a function."""
    helper = types.ModuleType("helper_of_nobody")
    helper.by = value
    space = {"helper": helper, "__name__": "__main__"}
    exec("def network(batch):\n    return batch * helper.by", space)
    return space["network"]


def linear(value):
    layer = nn.Linear(3, 2)
    with torch.no_grad():
        layer.weight.fill_(value)
        layer.bias.fill_(0)
    return layer


class Module(nn.Module):
    def __init__(self, value=1.0, *, buffer=0.0, hidden=0.0):
        super().__init__()
        self.value = value
        self.register_buffer("kept", torch.tensor(buffer))
        self.register_buffer("hidden", torch.tensor(hidden), persistent=False)

    def forward(self, x):
        return x.mean(dim=(2, 3)) * self.value + self.kept + self.hidden


class Twin(Module):
    """The same name, structure and weights, and another forward."""

    def forward(self, x):
        return x.amax(dim=(2, 3)) * self.value


Twin.__name__ = Twin.__qualname__ = "Module"


def hooked(value):
    module = Module()
    module.register_forward_hook(lambda module, inputs, output: output * value)
    return module


def patched(value):
    module = Module()
    module.forward = types.MethodType(lambda self, x: x.mean(dim=(2, 3)) * value, module)
    return module


def dropping(value):
    module = nn.Sequential(nn.Flatten(), nn.Linear(3, 2, bias=False))
    nn.init.constant_(module[1].weight, 1)
    module[1].register_forward_pre_hook(functools.partial(lambda by, m, x: x[0] * by, value))
    return module


PAIRS = {
    "bound methods": lambda v: Net(v).encode,
    "states": Net,
    "arrays in a state": lambda v: Net(np.full(3, v)),
    "tensors in a state": lambda v: Net(torch.full((3,), float(v))),
    "modules in a state": lambda v: Net(linear(v)).encode,
    "nested states": lambda v: Net(1, inner={"a": [Net(v)]}),
    "slots": Slotted,
    "states that pickles leave out": Forgetful,
    "subclasses of dict": lambda v: Net(collections.OrderedDict(a=v)),
    "objects of C": lambda v: Net(re.compile(str(v))),
    "queues": lambda v: Net(collections.deque([v])),
    "partials": lambda v: functools.partial(np.mean, axis=v),
    "partials of partials": lambda v: functools.partial(functools.partial(np.mean, axis=v)),
    "arguments of a partial": lambda v: functools.partial(Net(1).encode, v),
    "closures": closing_over,
    "closures over arrays": lambda v: closing_over(np.full(4, v)),
    "closures over modules": lambda v: closing_over(linear(v)),
    "lambdas": lambda v: lambda batch: batch * v,
    "defaults": default,
    "keyword defaults": keyword,
    "decorated": lambda v: decorated(closing_over(v)),
    "cached": lambda v: functools.lru_cache(closing_over(v)),
    "globals": of_global,
    "globals of a module": of_module,
    "weights": linear,
    "attributes of a module": Module,
    "buffers": lambda v: Module(buffer=float(v)),
    "buffers out of the state dict": lambda v: Module(hidden=float(v)),
    "hooks": hooked,
    "hooks before": dropping,
    "patched modules": patched,
    "deep modules": lambda v: nn.Sequential(nn.Sequential(linear(v))),
    "dtypes": lambda v: linear(1).to((torch.float64, torch.float16)[v - 1]),
    "means": lambda v: Backbone(np.mean, mean=(v, 0, 0)),
    "spreads": lambda v: Backbone(np.mean, std=(v, 1, 1)),
    "sizes": lambda v: Backbone(np.mean, size=v),
    "traces": lambda v: torch.jit.trace(linear(v), torch.zeros(1, 3)),
}


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("name", PAIRS)
def test_states_are_told_apart(name):
    make = PAIRS[name]
    one = make(1)
    assert key(make(1)) != key(make(2))
    assert key(one) == key(one)
    if name != "traces":
        assert key(make(1)) == key(make(1))


def test_code_is_told_apart():
    alike = [Net(1), Other(1), Forgetful(1), Net(1).encode, Other(1).encode, Module(), Twin()]
    alike += [lambda b: b.mean(axis=1), lambda b: b.sum(axis=1), lambda b: b.mean(axis=2)]
    alike += [np.mean, np.max, nn.Flatten(), nn.Identity(), nn.ReLU(), nn.GELU("none")]
    alike += [nn.GELU("tanh"), functools.partial(np.mean), torch.relu, torch.tanh]
    assert len({key(value) for value in alike}) == len(alike)


def test_what_does_not_count():
    module = nn.Sequential(linear(1), nn.Dropout(), nn.BatchNorm1d(2))
    before = key(module)
    assert key(module.eval()) == before
    module.register_state_dict_post_hook(lambda *args: None)
    assert key(module.to(memory_format=torch.channels_last)) == before
    assert key(Net(1, lock=threading.Lock())) == key(Net(1, lock=threading.Lock()))
    handle = module.register_forward_hook(lambda *args: None)
    assert key(module) != before
    handle.remove()
    assert key(module) == before


def test_what_changes_between_calls_is_seen():
    net, module = Net(1), linear(1)
    before = key(net.encode), key(module)
    net.state = 2
    with torch.no_grad():
        module.weight[0, 0] = 7
    assert key(net.encode) != before[0]
    assert key(module) != before[1]


def test_cycles_end():
    first, second = Net(1), Net(2)
    first.other, second.other = second, first
    assert key(first) == key(first) != key(second)
    function = closing_over(None)
    function.__closure__[0].cell_contents = function
    assert key(function) == key(function)


def test_the_same_in_another_process(tmp_path):
    """Orders of sets, addresses and pickling leave no trace."""
    script = tmp_path / "told.py"
    script.write_text(
        "import pickle, re, functools, numpy as np, torch\n"
        "from skwsdhq.backbones._key import network_key\n"
        "class Net:\n"
        "    names = {'a', 'b', 'c', 'd'}\n"
        "    def __init__(self): self.state = [re.compile('x'), np.arange(3), {'q', 'r', 's'}]\n"
        "    def __call__(self, batch): return batch\n"
        "torch.manual_seed(0)\n"
        "net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))\n"
        "net.register_forward_hook(lambda *a: None)\n"
        "told = [network_key(v, None) for v in (Net(), Net().__call__, net, np.mean)]\n"
        "pickle.dumps(Net())\n"
        "assert network_key(Net(), None) == told[0]\n"
        "print(told)\n"
    )
    told = {
        subprocess.run(
            [sys.executable, script], capture_output=True, text=True, check=True, env=env
        ).stdout
        for env in ({**_environment(), "PYTHONHASHSEED": str(seed)} for seed in (0, 1))
    }
    assert len(told) == 1


def _environment():
    import os

    return dict(os.environ)


def test_what_cannot_be_told_is_not_kept(tmp_path):
    """A generator's place is nowhere to be read: features are right, and no others are taken."""
    images = np.full((3, 4, 4, 3), 7, dtype=np.uint8)
    nets = [Net(value, source=(i for i in range(3))) for value in (1, 2)]
    with pytest.raises(UnknownStateError, match="generator"):
        key(nets[0])
    for net in nets:
        loader = ImageLoader(net.encode, memory=tmp_path / "kept")
        with pytest.warns(UserWarning, match=r"features are not kept: .*generator"):
            loader.fit(images)
        with pytest.warns(UserWarning, match="features are not kept"):
            assert loader.transform(images)[0, 0] == 7 * net.state
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize("name", ["bound methods", "closures", "states", "defaults"])
def test_kept_features_are_the_networks_own(tmp_path, name):
    images = np.full((3, 4, 4, 3), 7, dtype=np.uint8)

    def features(value, memory):
        loader = ImageLoader(PAIRS[name](value), size=4, memory=memory)
        return loader.fit_transform(images)

    for value in (1, 2, 1):
        np.testing.assert_array_equal(features(value, tmp_path), features(value, None))
    assert len(list((tmp_path / "skwsdhq-features").iterdir())) == 2


def test_networks_of_files_are_told_apart(tmp_path):
    assert key(MeanColours("a")) != key(MeanColours("b"))
    assert key("resnet18") == key("resnet18") != key("resnet50")
