import pytest
import torch
from torch import nn

from limbeck.errors import ArgumentError
from limbeck.evaluation import cost
from limbeck.evaluation.memory import peak_memory


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.heads = nn.Linear(8, 24)

    def forward(self, x):
        q, k, v = self.heads(x).chunk(3, -1)
        return nn.functional.scaled_dot_product_attention(q, k, v)


def test_parameters_counts_shared_ones_once():
    module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3))
    assert cost.parameters(module) == 12 + 6 + 12
    module[2].weight = module[0].weight
    assert cost.parameters(module) == 12 + 6 + 3
    assert cost.bytes_in_memory(module) == 4 * (21 + 6) + 8  # running mean and variance, and an int64 counter


def test_bytes_on_disk(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "b").write_bytes(b"123")
    assert cost.bytes_on_disk(tmp_path / "a") == 5
    assert cost.bytes_on_disk(tmp_path) == 8
    with pytest.raises(ArgumentError, match="no file or folder"):
        cost.bytes_on_disk(tmp_path / "c")


@pytest.mark.parametrize(
    ("module", "inputs", "expected"),
    [
        (nn.Linear(4, 5), torch.randn(2, 4), 2 * 4 * 5),
        (nn.Conv2d(3, 4, 3), torch.randn(2, 3, 8, 8), 2 * 4 * 36 * 27),
        (nn.Conv2d(4, 4, 3, groups=4), torch.randn(1, 4, 8, 8), 4 * 36 * 9),
        (Attention(), torch.randn(2, 5, 8), 2 * 5 * 8 * 24 + 2 * 2 * 5 * 5 * 8),
        (nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), torch.randn(2, 5, 16),
         2 * 5 * (4 * 16 * 16 + 2 * 16 * 32) + 2 * 2 * 2 * 5 * 5 * 8),
    ],
)  # fmt: skip
def test_macs_are_the_hand_counts(module, inputs, expected):
    assert cost.macs(module, inputs) == (expected, None)
    assert module.training  # put back


def test_macs_of_fused_attention_equal_eager():
    transformers = pytest.importorskip("transformers")
    counts = []
    for attention in ("eager", "sdpa"):
        config = transformers.BertConfig(
            vocab_size=20, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
            attn_implementation=attention)  # fmt: skip
        count, _ = cost.macs(transformers.BertForSequenceClassification(config), {"input_ids": torch.ones(2, 7).long()})
        counts.append(count)
    layer = 2 * 7 * (4 * 16 * 16 + 2 * 16 * 32) + 2 * 2 * 2 * 7 * 7 * 8
    assert counts == [2 * layer + 2 * (16 * 16 + 16 * 2)] * 2


def test_macs_say_when_they_do_not_know():
    for module in (nn.LSTM(4, 5), nn.GRU(4, 5)):
        count, warning = cost.macs(nn.Sequential(nn.Linear(4, 4), module), torch.randn(3, 2, 4))
        assert count is None
        assert type(module).__name__ in warning

    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

        def forward(self, x):
            return x * self.weight

    assert cost.macs(Scale(), torch.randn(2, 3))[0] is None
    assert cost.macs(nn.ReLU(), torch.randn(2, 3)) == (0, None)


def test_latency_calls_and_counts():
    seen = []
    rows = cost.latency(seen.append, lambda batch: batch, batches=(1, 8), seconds=0.001, warmup=2, backend="test")
    assert [(row["backend"], row["batch"]) for row in rows] == [("test", 1), ("test", 8)]
    for row in rows:
        assert row["calls"] >= 20
        assert seen.count(row["batch"]) == row["calls"] + 2
        assert 0 < row["p50_ms"] <= row["p95_ms"]
        assert row["throughput"] > 0
        assert row["threads"] == torch.get_num_threads()
    with pytest.raises(ArgumentError, match=r"\[0\]"):
        cost.latency(seen.append, lambda batch: batch, batches=[0])


def test_a_slow_model_is_not_called_twenty_times():
    import time

    row = cost.latency(lambda _: time.sleep(0.01), lambda batch: batch, batches=[1], seconds=0.003, warmup=0)[0]
    assert 3 <= row["calls"] <= 5
    assert row["p50_ms"] >= 10
    assert row["throughput"] <= 100


def test_percentiles_are_of_the_sorted_calls():
    assert cost._percentile([1, 2, 3, 4], 0.5) == 2
    assert cost._percentile([1, 2, 3], 0.5) == 2
    assert cost._percentile(list(range(1, 101)), 0.95) == 95
    assert cost._percentile([7], 0.95) == 7


def test_peak_memory_is_the_sum_of_what_lives_at_once():
    def chain():
        a = torch.zeros(1000)
        b = a + 1
        del a
        return b + 1

    assert peak_memory(chain) == 8000

    outside = torch.ones(1000)
    assert peak_memory(lambda: outside.view(10, 100).t()) == 0
    assert peak_memory(lambda: [torch.ones(10).view(2, 5) for _ in range(4)]) == 160

    module = nn.Sequential(nn.Linear(10, 1000), nn.ReLU(), nn.Linear(1000, 1))
    with torch.no_grad():
        assert peak_memory(lambda: module(torch.ones(4, 10))) == 4 * (10 + 2 * 1000) * 4 - 4 * 10 * 4 + 160


def test_measure_has_the_fields_of_the_report(tmp_path):
    module = nn.Sequential(nn.Linear(6, 8), nn.Dropout(), nn.Linear(8, 3))
    module[1].eval()
    torch.save(module.state_dict(), tmp_path / "weights")
    record = cost.measure(module, torch.randn(2, 6), path=tmp_path / "weights", batches=(1, 4), seconds=0.001)
    assert record["parameters"] == 83
    assert record["bytes"] == (tmp_path / "weights").stat().st_size
    assert record["macs"] == 6 * 8 + 8 * 3
    assert record["peak_memory_bytes"] == 4 * (83 + 8 + 3)
    assert [row["batch"] for row in record["latency"]] == [1, 4]
    assert record["warnings"] == []
    assert module.training
    assert not module[1].training
    assert cost.measure(nn.LSTM(3, 3), torch.randn(2, 4, 3), batches=(1,), seconds=0.001)["warnings"]


def test_repeated_makes_any_batch():
    example = {"ids": torch.arange(6).view(3, 2)}
    assert cost.repeated(example, 5)["ids"][:, 0].tolist() == [0, 2, 4, 0, 2]
    assert cost.repeated(example, 1)["ids"].shape == (1, 2)
    with pytest.raises(ArgumentError, match="list"):
        cost.repeated(["text"], 2)
