"""PyTorch: tensors over the library's memory through DLPack, DataLoader, and DDP on real processes."""
import gc
import os
import pickle
import re
import subprocess
import sys
import unittest
import warnings

import support as s
from support import ebb, np

import torch
from torch.utils.data import DataLoader

import ebb.torch

warnings.filterwarnings("ignore", "Sparse CSR")
OPTIONS = {"batch": 130, "lanes": 6}
EXAMPLES = os.environ.get("EXAMPLES", os.path.join(os.path.dirname(__file__), "../../apps/examples"))


class Tensors(unittest.TestCase):
    def test_they_lie_in_the_batch_s_memory(self):
        batch = next(iter(ebb.Loader(s.sparse(), **OPTIONS)))
        got = batch.torch()
        self.assertEqual(got.x.layout, torch.sparse_csr)
        self.assertEqual(got.x.values().data_ptr(), batch.data.ctypes.data)
        self.assertEqual(got.x.col_indices().data_ptr(), batch.indices.ctypes.data)
        self.assertEqual(got.rows.data_ptr(), batch.rows.ctypes.data)
        batch = next(iter(ebb.Loader(s.regression(), **OPTIONS)))
        got = batch.torch()
        for tensor, array in ((got.x, batch.x), (got.y, batch.y), (got.weight, batch.weight)):
            self.assertEqual(tensor.data_ptr(), array.ctypes.data)
            self.assertEqual(tuple(tensor.shape), array.shape)

    def test_they_hold_the_batch_s_values(self):
        for path in (s.sparse(), s.dense(), s.regression(), s.several_targets()):
            for batch in ebb.Loader(path, **OPTIONS):
                got = batch.torch()
                x = got.x.to_dense() if batch.sparse else got.x
                wanted = np.zeros(batch.shape, np.float32)
                if batch.sparse:
                    rows = np.repeat(np.arange(len(batch)), np.diff(batch.indptr))
                    wanted[rows, batch.indices] = batch.data
                else:
                    wanted = batch.x
                np.testing.assert_array_equal(x.numpy(), wanted)
                np.testing.assert_array_equal(got.y.numpy(), batch.y)
                self.assertEqual(got.y.dtype, torch.int64 if batch.y.dtype == np.int32 else torch.float32)
                self.assertEqual(got.weight is None, batch.weight is None)
                self.assertEqual(got.rows.tolist(), batch.rows.tolist())

    def test_of_stored_bytes_they_are_bytes_and_as_good(self):
        for sparse in (False, True):
            path = s.whole_numbers(sparse)
            both = (ebb.Loader(path, **OPTIONS, values=values) for values in ("stored", "float"))
            for batch, wanted in zip(*both):
                x, want = batch.torch().x, wanted.torch().x
                self.assertEqual(x.dtype, torch.uint8)
                inner = x.values() if sparse else x
                self.assertEqual(inner.data_ptr(), (batch.data if sparse else batch.x).ctypes.data)
                x, want = (x.float().to_dense(), want.to_dense()) if sparse else (x.float(), want)
                self.assertTrue(torch.equal(x, want))

    def test_they_keep_the_batch_and_give_it_back(self):
        gc.disable()
        try:
            for path in (s.sparse(), s.dense()):
                loader = ebb.Loader(path, **OPTIONS)
                got = next(iter(loader)).torch()
                x = got.x.values() if got.x.layout == torch.sparse_csr else got.x
                kept = x.clone()
                del got
                for _ in range(2):
                    for batch in loader:
                        self.assertTrue(torch.equal(x, kept))
                    del batch
                self.assertEqual(loader.stats()["held"], 1)
                loader.close()
                self.assertTrue(torch.equal(x, kept))
                del x, loader
        finally:
            gc.enable()

    def test_gradients_flow_through_both_kinds_of_first_layer(self):
        batch = next(iter(ebb.Loader(s.sparse(), **OPTIONS))).torch()
        table = torch.randn(300, 4, requires_grad=True)
        by_matrix = batch.x @ table
        by_matrix.square().sum().backward()
        of_matrix, table.grad = table.grad, None
        by_bag = torch.nn.functional.embedding_bag(batch.x.col_indices(), table, batch.x.crow_indices()[:-1], mode="sum",
                                                   per_sample_weights=batch.x.values())
        by_bag.square().sum().backward()
        torch.testing.assert_close(by_bag, by_matrix, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(table.grad, of_matrix, rtol=1e-4, atol=1e-3)

    def test_a_batch_without_rows_is_one_of_tensors_too(self):
        # 13 rows in 12 lanes of one row a step: the second step has rows of one lane alone
        options = {"batch": 12, "lanes": 12, "ranks": 3}
        path = s.sparse(13)
        last = [list(ebb.Loader(path, rank=r, **options))[-1] for r in range(3)]
        self.assertEqual(sorted(len(b) for b in last), [0, 0, 1])
        for batch in last:
            self.assertEqual(batch.global_rows, 1)
            got = batch.torch()
            self.assertEqual(tuple(got.x.shape), (len(batch), ebb.open(path).columns))
            loss = torch.nn.functional.cross_entropy(got.x @ torch.zeros(got.x.shape[1], 3), got.y, reduction="sum")
            self.assertTrue(torch.isfinite(loss))


class Iterable(unittest.TestCase):
    def test_data_loader_gives_the_loader_s_batches_epoch_by_epoch(self):
        data = ebb.torch.IterableDataset(s.sparse(), **OPTIONS)
        loader = DataLoader(data, batch_size=None)
        plain = ebb.Loader(s.sparse(), **OPTIONS)
        self.assertEqual(len(loader), len(plain))
        for _ in range(2):
            self.assertEqual([b.rows.tolist() for b in loader], [b.rows.tolist() for b in plain])
        data.set_epoch(0)
        plain.seek(0)
        self.assertEqual([b.rows.tolist() for b in loader], [b.rows.tolist() for b in plain])
        self.assertEqual(data.loader.stats()["copies"], 0)

    def test_it_resumes(self):
        data = ebb.torch.IterableDataset(s.dense(), **OPTIONS)
        whole = [b.rows.tolist() for b in data]
        data.set_epoch(0)
        iterator = iter(DataLoader(data, batch_size=None))
        next(iterator), next(iterator)
        state = torch_round_trip(data.state_dict())
        other = ebb.torch.IterableDataset(s.dense(), **OPTIONS)
        other.load_state_dict(state)
        self.assertEqual([b.rows.tolist() for b in DataLoader(other, batch_size=None)], whole[2:])

    def test_worker_processes_are_refused(self):
        data = ebb.torch.IterableDataset(s.dense(), **OPTIONS)
        with self.assertRaisesRegex(RuntimeError, "num_workers=0"):
            next(iter(DataLoader(data, batch_size=None, num_workers=1)))

    def test_it_can_be_sent_to_another_process_and_starts_there(self):
        data = ebb.torch.IterableDataset(s.dense(), **OPTIONS)
        first = next(iter(data)).rows.tolist()
        self.assertEqual(next(iter(pickle.loads(pickle.dumps(data)))).rows.tolist(), first)

    def test_the_place_is_asked_of_the_environment(self):
        os.environ.update(RANK="1", WORLD_SIZE="3")
        try:
            data = ebb.torch.IterableDataset(s.dense(), **OPTIONS)
            self.assertEqual((data.rank, data.ranks), (1, 3))
            given = ebb.torch.IterableDataset(s.dense(), rank=0, ranks=1, **OPTIONS)
            self.assertEqual((given.rank, given.ranks), (0, 1))
        finally:
            del os.environ["RANK"], os.environ["WORLD_SIZE"]
        self.assertRaises(ValueError, ebb.torch.IterableDataset, s.dense(), rank=0)


def torch_round_trip(state):
    path = f"{s.WORK.name}/state.pt"
    torch.save(state, path)
    return torch.load(path, weights_only=True)


class Ddp(unittest.TestCase):
    def train(self, processes, epochs, checkpoint, path):
        program = [f"{EXAMPLES}/train_torch.py", path, "--epochs", str(epochs), "--batch", "130", "--hidden", "8",
                   "--checkpoint", f"{s.WORK.name}/{checkpoint}"]
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        done = subprocess.run([sys.executable, *(launcher if processes > 1 else []), *program], capture_output=True,
                              text=True, timeout=200, env={**os.environ, "OMP_NUM_THREADS": "1"})
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return [(int(e), float(loss), int(rows))
                for e, loss, rows in re.findall(r"^epoch (\d+)/\d+  loss ([0-9.]+)  of (\d+) rows$", done.stdout, re.M)]

    def test_two_processes_train_what_one_trains_and_either_goes_on(self):
        one = self.train(1, 2, "one.pt", s.sparse())
        two = self.train(2, 1, "two.pt", s.sparse()) + self.train(1, 2, "two.pt", s.sparse())
        self.assertEqual([(e, rows) for e, _, rows in one], [(1, s.ROWS), (2, s.ROWS)])
        self.assertEqual([(e, rows) for e, _, rows in two], [(1, s.ROWS), (2, s.ROWS)])
        for (_, a, _), (_, b, _) in zip(one, two):
            self.assertAlmostEqual(a, b, delta=0.002)


if __name__ == "__main__":
    s.main()
