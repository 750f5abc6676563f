"""Taps: reading, replacing, stopping; and each silent trap that was found before the first line."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from limbeck.errors import SignalError
from limbeck.signals.taps import ChangedInPlace, Tap, Taps, match, record_call


class Block(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.inner = nn.Linear(width, width)
        self.calls = 0

    def forward(self, x, shift=0.0):
        self.calls += 1
        return (torch.tanh(self.inner(x)) + shift, None)


class Chain(nn.Module):
    """Blocks that return tuples, called with keywords, inside an `except Exception`, as models in the wild do."""

    def __init__(self, blocks=3, recompute=False):
        super().__init__()
        self.layer = nn.ModuleList(Block() for _ in range(blocks))
        self.head = nn.Linear(4, 3)
        self.recompute = recompute

    def forward(self, x):
        for block in self.layer:
            try:
                if self.recompute:
                    x = checkpoint(block, x, 0.5, use_reentrant=False)[0]
                else:
                    x = block(x, shift=0.5)[0]
            except Exception as error:  # a model that hides errors must not hide the stop
                raise AssertionError("swallowed") from error
        return self.head(x)


@pytest.fixture
def chain():
    torch.manual_seed(0)
    return Chain()


X = torch.linspace(-1, 1, 8).reshape(2, 4)


def test_reads_what_the_modules_gave(chain):
    with Taps(chain, ["layer.1", "head#input", "layer.0.inner"]) as taps:
        output = taps.run(lambda: chain(X))
    first = chain.layer[0](X, 0.5)[0]
    assert torch.equal(taps.signals["layer.1"], chain.layer[1](first, 0.5)[0])
    assert torch.equal(taps.signals["layer.0.inner"], chain.layer[0].inner(X))
    assert torch.equal(chain.head(taps.signals["head#input"]), output)


def test_hooks_are_gone_when_closed(chain):
    with Taps(chain, ["layer.*"]) as taps:
        taps.run(lambda: chain(X))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in chain.modules())
    copy.deepcopy(chain)  # a kept hook or activation would make this fail, and EMA with it


def test_star_does_not_cross_dots(chain):
    assert match(chain, "layer.*") == ["layer.0", "layer.1", "layer.2"]
    assert match(chain, "layer.*.inner#input") == [f"layer.{i}.inner#input" for i in range(3)]


def test_stop_ends_the_forward_after_the_last_signal(chain):
    with Taps(chain, ["layer.0", "layer.1"], stop=True) as taps:
        assert taps.run(lambda: chain(X)) is None
    assert [block.calls for block in chain.layer] == [1, 1, 0]


def test_a_stop_belongs_to_its_owner(chain):
    with Taps(chain, ["layer.2"]) as outer, Taps(chain, ["layer.0"], stop=True) as inner:
        with pytest.raises(SignalError, match="No signal came from"):
            outer.run(
                lambda: inner.run(lambda: chain(X))
            )  # the inner stop ends the inner run, and the outer one says so
        assert "layer.0" in inner.signals


def test_nothing_matches_names_the_nearest(chain):
    with pytest.raises(SignalError, match=r"layer\.7.*Did you mean 'layer\."):
        match(chain, "layer.7")
    with pytest.raises(SignalError, match="does not cross a dot"):
        match(chain, "*.inner.*")


@pytest.mark.parametrize("text", ["layer@0", "layer#", "layer@x", "a#output"])
def test_malformed_taps_are_refused(text):
    with pytest.raises(SignalError, match="is not a tap"):
        Tap.parse(text)


def test_replace_puts_a_value_in_and_gradient_flows(chain):
    value = torch.ones(2, 4, requires_grad=True)
    with Taps(chain, ["layer.2"], {"layer.1": value}) as taps:
        output = taps.run(lambda: chain(X))
    assert torch.equal(output, chain.head(chain.layer[2](value, 0.5)[0]))
    output.sum().backward()
    assert value.grad.abs().sum() > 0
    assert chain.layer[0].inner.weight.grad is None


def test_replace_by_a_function_and_of_an_input(chain):
    with Taps(chain, [], {"head#input": lambda x: 2 * x}) as taps:
        output = taps.run(lambda: chain(X))
    with Taps(chain, ["head#input"]) as plain:
        plain.run(lambda: chain(X))
    assert torch.allclose(output, chain.head(2 * plain.signals["head#input"]))


def test_shared_modules_have_call_numbers():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.group = nn.Linear(4, 4)

        def forward(self, x):
            return self.group(self.group(x))

    model = Shared()
    with Taps(model, ["group", "group@2"]) as taps:
        output = taps.run(lambda: model(X))
    assert torch.equal(taps.signals["group@2"], output)
    assert torch.equal(taps.signals["group"], model.group(X))
    with Taps(model, [], {"group@2": torch.zeros(2, 4)}) as taps:
        assert taps.run(lambda: model(X)).eq(0).all()
    with Taps(model, ["group@3"]) as taps, pytest.raises(SignalError, match="No signal came from"):
        taps.run(lambda: model(X))


def test_a_signal_changed_in_place_is_an_error_or_a_copy():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 2))
    with Taps(model, ["0"]) as taps, pytest.raises(ChangedInPlace, match="clone"):
        taps.run(lambda: model(X))
    with Taps(model, ["0"], clone=["0"]) as taps:
        taps.run(lambda: model(X))
    assert torch.equal(taps.signals["0"], model[0](X))
    with Taps(model, ["0"], stop=True) as taps:  # a stop comes before the change
        taps.run(lambda: model(X))
    assert taps.signals["0"].lt(0).any()


def test_recomputation_keeps_the_first_value_and_its_gradient():
    torch.manual_seed(0)
    model, plain = Chain(recompute=True), Chain()
    plain.load_state_dict(model.state_dict())
    grads = []
    for each in (model, plain):
        with Taps(each, ["layer.1"]) as taps:
            (taps.run(lambda each=each: each(X)).sum() + taps.signals["layer.1"].pow(2).sum()).backward()
        grads.append([p.grad.clone() for p in each.parameters()])
    assert all(torch.allclose(a, b) for a, b in zip(*grads, strict=True))


def test_a_replacement_is_there_again_when_activations_are_recomputed():
    torch.manual_seed(0)
    model, plain = Chain(recompute=True), Chain()
    plain.load_state_dict(model.state_dict())
    grads = []
    for each in (model, plain):
        with Taps(each, [], {"layer.0.inner": lambda x: 3 * x}) as taps:
            taps.run(lambda each=each: each(X)).sum().backward()  # inside: the hook must see the recomputation
        grads.append([p.grad.clone() for p in each.parameters()])
    assert all(torch.allclose(a, b) for a, b in zip(*grads, strict=True))


def test_the_empty_attention_tuple_says_eager():
    class Attention(nn.Module):
        def forward(self, x):
            return (x, None)

    model = nn.Sequential(Attention())
    with Taps(model, ["0#1"]) as taps, pytest.raises(SignalError, match="attn_implementation='eager'"):
        taps.run(lambda: model(X))


def test_record_call_holds_args_and_kwargs(chain):
    args, kwargs = record_call(chain, "layer.1", lambda: chain(X))
    assert kwargs == {"shift": 0.5}
    assert torch.equal(args[0], chain.layer[0](X, 0.5)[0])
    assert not args[0].requires_grad


def test_compiled_modules_keep_their_names(chain):
    class Outer(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self._orig_mod = inner  # what torch.compile(model) is

        def forward(self, x):
            return self._orig_mod(x)

    outer = Outer(chain)
    with Taps(outer, ["layer.1"]) as taps:
        taps.run(lambda: outer(X))
    assert taps.signals["layer.1"].shape == (2, 4)


def test_a_tap_on_a_model_that_was_compiled_before_is_an_error_and_not_silence():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        compiled(X)  # from now on hooks that are added are not seen
        with (
            Taps(compiled, ["1"]) as taps,
            pytest.raises(SignalError, match="compiled as a whole before the tap was set"),
        ):
            taps.run(lambda: compiled(X))
        with Taps(model, ["1"]) as taps:  # the module that was compiled is as it was
            taps.run(lambda: model(X))
    assert taps.signals["1"].shape == (2, 4)
