"""What the Python module hands out: the bytes of C, in C's order, in C's memory; places, errors, kinds of data."""
import ctypes
import json
import os
import random
import shutil
import subprocess
import sys
import unittest
from unittest import mock

import support as s
from support import ebb, np, t

import ebb._loader as internals

try:
    import scipy.sparse
except ImportError:
    scipy = None
needs_scipy = unittest.skipUnless(scipy, "SciPy is not here")


def raw(batch):
    """The arrays of a batch as bytes, in the order of dump_batches."""
    dense = None if batch.sparse else batch.x
    label = batch.y if batch.y is not None and batch.y.dtype == np.int32 else None
    real = batch.y if batch.y is not None and batch.y.dtype == np.float32 else None
    arrays = (batch.rows, batch.indptr, batch.indices, batch.data, dense, label, real, batch.weight)
    return [None if a is None else a.tobytes() for a in arrays]


def rows_of(loader):
    return [batch.rows.tolist() for batch in loader]


class SameAsC(unittest.TestCase):
    def check(self, path, batch=130, lanes=6, seed=3, rank=0, ranks=1):
        wanted = s.from_c(path, batch, lanes, seed, rank, ranks, 2)
        with ebb.Loader(path, batch=batch, lanes=lanes, seed=seed, rank=rank, ranks=ranks) as loader:
            got = 0
            for epoch in range(2):
                for b in loader:
                    self.assertEqual(np.frombuffer(wanted[got][0], np.int64).tolist(), [b.epoch, b.step])
                    self.assertEqual(raw(b), wanted[got][1:9], f"epoch {b.epoch} step {b.step}")
                    lanes_of_c = np.frombuffer(wanted[got][9], b.lanes.dtype)
                    for name in ("lane", "first", "n"):
                        self.assertEqual(b.lanes[name].tolist(), lanes_of_c[name].tolist())
                    got += 1
            self.assertEqual(got, len(wanted))
            self.assertEqual(loader.stats()["copies"], 0)

    def test_sparse_batches_are_c_s_bytes_in_c_s_order(self):
        self.check(s.sparse())

    def test_so_are_dense_ones(self):
        self.check(s.dense())

    def test_so_are_real_targets_and_weights(self):
        self.check(s.regression())

    def test_so_are_several_targets_per_row(self):
        self.check(s.several_targets())

    def test_so_is_an_order_of_many_blocks_and_windows(self):
        self.check(s.long(), batch=20000, lanes=2)

    def test_so_is_data_without_targets(self):
        self.check(s.without_targets())
        self.assertEqual((ebb.open(s.without_targets()).target, ebb.open(s.without_targets())[3:5].y), (None, None))

    def test_so_is_every_rank_s_share(self):
        for rank in range(4):
            self.check(s.sparse(), rank=rank, ranks=4)

    def test_the_threads_change_nothing(self):
        wanted = rows_of(ebb.Loader(s.sparse(), batch=100, lanes=5, threads=1))
        self.assertEqual(rows_of(ebb.Loader(s.sparse(), batch=100, lanes=5, threads=4)), wanted)


class Arrays(unittest.TestCase):
    def record(self, batch):
        """The library's own record of a leased batch."""
        lease = self.leases.pop()
        return ebb._library.lib.ebb_lease_batch(lease).contents

    def setUp(self):
        self.leases = []
        real = internals._Lease.__init__

        def remember(lease):
            real(lease)
            self.leases.append(lease.pointer)

        patch = mock.patch.object(internals._Lease, "__init__", remember)
        patch.start()
        self.addCleanup(patch.stop)

    def test_arrays_lie_where_the_library_has_them(self):
        for path in (s.sparse(), s.dense(), s.regression()):
            batch = next(iter(ebb.Loader(path, batch=100, lanes=5)))
            record = self.record(batch)
            pairs = [(batch.rows, record.row), (batch.y, record.label or record.y), (batch.weight, record.weight),
                     (batch.indptr, record.rowptr), (batch.indices, record.columns),
                     (batch.data if batch.sparse else batch.x, record.values)]
            for array, address in pairs:
                self.assertEqual(None if array is None else array.ctypes.data, address)

    @needs_scipy
    def test_the_scipy_matrix_shares_columns_and_values(self):
        batch = next(iter(ebb.Loader(s.sparse(), batch=100, lanes=5)))
        record = self.record(batch)
        self.assertIsInstance(batch.x, scipy.sparse.csr_matrix)
        self.assertEqual(batch.x.data.ctypes.data, record.values)
        self.assertEqual(batch.x.indices.ctypes.data, record.columns)
        self.assertEqual(batch.x.indptr.tolist(), batch.indptr.tolist())
        self.assertIs(batch.x, batch.x)
        ones = batch.x @ np.ones(300, np.float32)
        sums = [batch.data[a:b].sum() for a, b in zip(batch.indptr, batch.indptr[1:])]
        np.testing.assert_allclose(ones, sums, rtol=1e-4, atol=1e-5)

    def test_arrays_are_read_only_and_copies_are_not(self):
        for path in (s.sparse(), s.dense()):
            batch = next(iter(ebb.Loader(path, batch=100, lanes=5)))
            self.assertRaises(ValueError, batch.rows.__setitem__, 0, 1)
            mine = batch.copy()
            self.assertEqual(raw(mine), raw(batch))
            mine.rows[0] = 7
            mine.y[0] = 1
            self.assertNotEqual(mine.rows.ctypes.data, batch.rows.ctypes.data)

    def test_batches_as_stored_have_the_types_of_the_shards_and_the_same_numbers(self):
        for path, columns, values in ((s.whole_numbers(True), np.uint16, np.uint8), (s.whole_numbers(False), None, np.uint8),
                                      (s.sparse(), np.uint16, np.float32), (s.dense(), None, np.float32)):
            wide = ebb.Loader(path, batch=100, lanes=5)
            for epoch in range(2):
                for b, want in zip(ebb.Loader(path, batch=100, lanes=5, values="stored"), wide):
                    record = self.record(want) and self.record(b)
                    self.assertEqual((b.rows.tolist(), b.y.tolist()), (want.rows.tolist(), want.y.tolist()))
                    array, wanted = (b.data, want.data) if b.sparse else (b.x, want.x)
                    self.assertEqual((array.dtype, wanted.dtype), (values, np.float32))
                    self.assertEqual(array.ctypes.data, record.values)
                    np.testing.assert_array_equal(array, wanted)
                    if b.sparse:
                        self.assertEqual(b.indices.dtype, columns)
                        self.assertEqual(b.indices.ctypes.data, record.columns)
                        np.testing.assert_array_equal(b.indices, want.indices)
                    self.assertEqual(raw(b.copy()), raw(b))

    @needs_scipy
    def test_a_scipy_matrix_of_stored_bytes_is_one_of_bytes(self):
        both = (ebb.Loader(s.whole_numbers(True), batch=100, lanes=5, values=values) for values in ("stored", "float"))
        for b, want in zip(*both):
            self.assertEqual(b.x.dtype, np.uint8)
            self.assertEqual(b.x.data.ctypes.data, b.data.ctypes.data)
            np.testing.assert_array_equal(b.x.toarray(), want.x.toarray())

    def test_dense_rows_are_those_of_the_source(self):
        x, y = np.load(f"{s.WORK.name}/x.npy") if s.dense() else None, np.load(f"{s.WORK.name}/y.npy")
        names = ebb.open(s.dense()).classes
        for batch in ebb.Loader(s.dense(), batch=100, lanes=5):
            np.testing.assert_array_equal(batch.x, x[batch.rows])
            self.assertEqual([int(names[k]) for k in batch.y], y[batch.rows].tolist())

    def test_several_targets_are_two_dimensional(self):
        x = ebb.open(s.several_targets())
        y = np.load(f"{s.WORK.name}/y2.npy")
        self.assertEqual((x.target, x.target_columns), ("real", 3))
        for batch in ebb.Loader(x, batch=100, lanes=5):
            np.testing.assert_array_equal(batch.y, y[batch.rows])


class Order(unittest.TestCase):
    def test_ranks_together_deliver_what_one_delivers(self):
        one = list(b.copy() for b in ebb.Loader(s.sparse(), batch=130, lanes=12))
        for ranks in (2, 3, 4):
            parts = [[b.copy() for b in ebb.Loader(s.sparse(), batch=130, lanes=12, rank=r, ranks=ranks)]
                     for r in range(ranks)]
            for step, whole in enumerate(one):
                of_step = [part[step] for part in parts]
                self.assertEqual(np.concatenate([b.rows for b in of_step]).tolist(), whole.rows.tolist())
                self.assertEqual(b"".join(b.data.tobytes() for b in of_step), whole.data.tobytes())
                self.assertEqual([b.global_rows for b in of_step], [len(whole)] * ranks)

    def test_every_row_comes_once_an_epoch(self):
        with ebb.Loader(s.sparse(), batch=130, lanes=12) as loader:
            for _ in range(2):
                self.assertEqual(sorted(sum(rows_of(loader), [])), list(range(s.ROWS)))

    def test_epochs_differ_and_return(self):
        loader = ebb.Loader(s.sparse(), batch=130, lanes=12)
        first, second = rows_of(loader), rows_of(loader)
        self.assertNotEqual(first, second)
        self.assertEqual((loader.epoch, loader.step), (2, 0))
        loader.seek(0)
        self.assertEqual(rows_of(loader), first)
        loader.set_epoch(1)
        self.assertEqual(rows_of(loader), second)

    def test_a_loop_that_was_left_goes_on(self):
        loader = ebb.Loader(s.sparse(), batch=130, lanes=12)
        whole = rows_of(loader)
        loader.seek(0)
        for batch in loader:
            if batch.step == 2:
                break
        self.assertEqual(rows_of(loader), whole[3:])

    def test_without_shuffle_and_with_one_lane_rows_come_as_stored(self):
        rows = rows_of(ebb.Loader(s.dense(), batch=64, lanes=1, shuffle=False))
        self.assertEqual(sum(rows, []), list(range(s.ROWS)))

    def test_the_hash_is_of_seed_and_epoch_and_nothing_else(self):
        loader = ebb.Loader(s.sparse(), batch=130, lanes=12)
        other = ebb.Loader(s.sparse(), batch=130, lanes=12, rank=1, ranks=3, threads=1)
        self.assertEqual(loader.order_hash(1), other.order_hash(1))
        self.assertEqual(len({loader.order_hash(0), loader.order_hash(1),
                              ebb.Loader(s.sparse(), batch=130, lanes=12, seed=2).order_hash(0)}), 3)

    def test_lengths(self):
        loader = ebb.Loader(s.sparse(), batch=130, lanes=12)
        lengths = [(len(b), b.global_rows) for b in loader]
        self.assertEqual(len(lengths), len(loader))
        self.assertTrue(all(n == of_all for n, of_all in lengths))
        self.assertEqual(sum(n for n, _ in lengths), s.ROWS)


class Cursors(unittest.TestCase):
    def test_resumes_at_random_steps_on_random_ranks(self):
        draw = random.Random(4)
        whole = ebb.Loader(s.sparse(), batch=70, lanes=12)
        wanted = [rows_of(whole), rows_of(whole)]
        for _ in range(12):
            loader = ebb.Loader(s.sparse(), batch=70, lanes=12)
            loader.seek(draw.randrange(2), draw.randrange(len(loader) + 1))
            state = loader.state_dict()
            ranks = draw.randrange(1, 5)
            self.assertLessEqual(len(state["cursor"]), 64)
            parts = [rows_of(ebb.Loader(s.sparse(), batch=70, lanes=12, rank=r, ranks=ranks, start=state))
                     for r in range(ranks)]
            self.assertEqual([sum(step, []) for step in zip(*parts)], wanted[loader.epoch][loader.step:])

    def test_c_goes_on_from_a_cursor_of_python(self):
        loader = ebb.Loader(s.sparse(), batch=70, lanes=12, seed=9, rank=1, ranks=2)
        for epoch, step in ((0, 5), (1, 0), (3, 2)):
            loader.seek(epoch, step)
            wanted = s.from_c(s.sparse(), 70, 12, 9, 1, 2, 1, loader.cursor)
            self.assertEqual([raw(b) for b in loader], [batch[1:9] for batch in wanted])

    def test_a_state_taken_in_the_loop_is_of_the_next_batch(self):
        loader = ebb.Loader(s.dense(), batch=70, lanes=12)
        whole = rows_of(loader)
        loader.seek(0)
        for batch in loader:
            if batch.step == 4:
                state = loader.state_dict()
                break
        self.assertEqual(rows_of(ebb.Loader(s.dense(), batch=70, lanes=12, start=state)), whole[5:])
        self.assertEqual(rows_of(ebb.Loader(s.dense(), batch=70, lanes=12, start=state["cursor"])), whole[5:])
        loader.load_state_dict(state)  # with a batch still held
        self.assertEqual(rows_of(loader), whole[5:])

    def test_a_state_of_something_else_is_refused(self):
        state = ebb.Loader(s.sparse(), batch=70, lanes=12).state_dict()
        for options, error, text in (({"data": s.dense()}, ebb.DataError, "other data"),
                                     ({"seed": 2}, ebb.DataError, "seed"),
                                     ({"batch": 80}, ebb.InvalidError, "batch 70"),
                                     ({"lanes": 10}, ebb.InvalidError, "lanes 12"),
                                     ({"start": b"short"}, ebb.InvalidError, "bytes")):
            with self.assertRaisesRegex(error, text):
                ebb.Loader(**{"data": s.sparse(), "batch": 70, "lanes": 12, "start": state, **options})


class Data(unittest.TestCase):
    def test_a_data_set_says_what_it_is(self):
        ds = ebb.open(s.regression())
        self.assertEqual((ds.shape, len(ds), ds.sparse, ds.target, ds.target_columns, ds.weighted, ds.classes),
                         ((s.ROWS, 2), s.ROWS, False, "real", 1, True, ()))
        shown = json.loads(t.run(["inspect", s.sparse(), "--json"]).stdout)
        ds = ebb.open(s.sparse())
        self.assertEqual((ds.rows, ds.columns, ds.nnz, ds.hash), tuple(shown[k] for k in ("rows", "cols", "nnz", "hash")))
        self.assertEqual(len(ds.classes), 3)
        self.assertEqual(sum(ds.class_rows), s.ROWS)
        self.assertEqual(ds.dtype, np.float32)
        self.assertIn("3 classes", repr(ds))

    def test_slices_are_the_rows_that_the_loader_shuffles(self):
        for path in (s.sparse(), s.dense(), s.regression(), s.several_targets()):
            ds = ebb.open(path)
            for batch in ebb.Loader(ds, batch=100, lanes=5):
                for i in (0, len(batch) - 1):
                    row, at = ds[int(batch.rows[i])], slice(i, i + 1)
                    self.assertEqual(row.rows.tolist(), batch.rows[at].tolist())
                    np.testing.assert_array_equal(row.y, batch.y[at])
                    if ds.weighted:
                        np.testing.assert_array_equal(row.weight, batch.weight[at])
                    if ds.sparse:
                        span = slice(*batch.indptr[i:i + 2])
                        np.testing.assert_array_equal(row.indices, batch.indices[span])
                        np.testing.assert_array_equal(row.data, batch.data[span])
                    else:
                        np.testing.assert_array_equal(row.x, batch.x[at])

    def test_slices_are_cut_as_python_cuts_them(self):
        ds = ebb.open(s.dense())
        for rows in (slice(0, 5), slice(-3, None), slice(990, 2000), slice(5, 5), slice(7, 3)):
            self.assertEqual(ds[rows].rows.tolist(), list(range(s.ROWS))[rows])
            self.assertEqual(ds[rows].x.shape, (len(range(s.ROWS)[rows]), 17))
        self.assertEqual(ds[-1].rows.tolist(), [s.ROWS - 1])
        self.assertRaises(IndexError, ds.__getitem__, s.ROWS)
        self.assertRaises(ValueError, ds.__getitem__, slice(0, 9, 2))

    def test_values_are_transformed(self):
        for batch in ebb.Loader(s.dense(), batch=100, lanes=5, row_l2=True):
            np.testing.assert_allclose(np.linalg.norm(batch.x, axis=1), 1, rtol=1e-5)
        plain = next(iter(ebb.Loader(s.dense(), batch=100, lanes=5)))
        twice = next(iter(ebb.Loader(s.dense(), batch=100, lanes=5, scale=2)))
        np.testing.assert_array_equal(twice.x, plain.x * 2)

    def test_stored_values_are_not_transformed(self):
        with self.assertRaisesRegex(ebb.InvalidError, "batches of floats"):
            ebb.Loader(s.dense(), batch=100, lanes=5, values="stored", log1p=True)
        with self.assertRaisesRegex(ebb.InvalidError, '"float" or "stored"'):
            ebb.Loader(s.dense(), batch=100, lanes=5, values="bytes")

    def test_a_foreign_file_is_read_as_it_is(self):
        folder = t.shared("pbmc68k-h5ad")
        if not folder:
            self.skipTest("pbmc68k-h5ad is not here")
        path = os.path.join(folder, next(f for f in sorted(os.listdir(folder)) if f.endswith(".h5ad")))
        with ebb.Loader(path, dataset="raw/X:obs/bulk_labels", batch=100, lanes=5, row_sum=1e4, log1p=True) as loader:
            self.assertTrue(loader.dataset.sparse)
            self.assertEqual(sum(len(b) for b in loader), len(loader.dataset))


class Faults(unittest.TestCase):
    def test_errors_are_exceptions_with_the_library_s_text(self):
        with self.assertRaisesRegex(ebb.NotFoundError, "/nowhere: no such file") as caught:
            ebb.open("/nowhere")
        self.assertEqual(caught.exception.status, "missing input")
        self.assertIsInstance(caught.exception, FileNotFoundError)
        for options, text in (({"batch": 3}, "batch"), ({"memory": 1000}, "memory"), ({"threads": 1000}, "threads"),
                              ({"rank": 3, "ranks": 3}, "counted from 0"), ({"ranks": 30}, "30 ranks"),
                              ({"memory": "lots"}, "no size"), ({"depth": 1}, "depth"), ({"seed": -1}, "seed"),
                              ({"lanes": 0}, "lanes"), ({"lanes": -1}, "lanes"), ({"lanes": 2**32 + 4}, "lanes"),
                              ({"batch": 2**64 + 100}, "batch"), ({"batch": 99.5}, "batch"),
                              ({"threads": 2**32 + 1}, "threads"), ({"block_rows": -1}, "block_rows")):
            with self.subTest(text=text), self.assertRaisesRegex(ValueError, text):
                ebb.Loader(s.sparse(), **options)
        loader = ebb.Loader(s.sparse(), batch=100)
        with self.assertRaisesRegex(ebb.InvalidError, "cannot go to epoch 0 step 999"):
            loader.seek(0, 999)
        self.assertEqual(loader.step, 0)

    def test_damage_is_named_by_its_place(self):
        copy = os.path.join(s.WORK.name, "damaged")
        shutil.copytree(s.sparse(), copy)
        shard = os.path.join(copy, "shard-00000.h5")
        with open(shard, "r+b") as f:
            whole = f.read()
            frame = whole.find(b"\x28\xb5\x2f\xfd")
            while frame >= 0:  # in every chunk's zstd frame
                f.seek(frame + 12)
                f.write(bytes([whole[frame + 12] ^ 255]))
                frame = whole.find(b"\x28\xb5\x2f\xfd", frame + 1)
        with self.assertRaisesRegex(ebb.CorruptError, "shard-00000.h5"):
            list(ebb.Loader(copy, batch=100))
        loader = ebb.Loader(copy, batch=100, on_corrupt="skip")
        kept = sum(len(batch.rows) for batch in loader)
        skipped = loader.stats()["rows_skipped"]
        self.assertGreater(skipped, 0)
        self.assertEqual(kept + skipped, loader.dataset.rows)
        with self.assertRaisesRegex(ebb.InvalidError, "on_corrupt"):
            ebb.Loader(copy, on_corrupt="ignore")

    def test_a_library_that_does_not_fit_is_told(self):
        def message(library):
            done = subprocess.run([sys.executable, "-c", "import ebb"], env={**os.environ, "EBB_LIBRARY": library},
                                  capture_output=True, text=True)
            self.assertEqual(done.returncode, 1)
            return done.stderr

        self.assertRegex(message("libz.so.1"), "ImportError: libz.so.1 does not fit this Python module: it has no ebb_")
        self.assertRegex(message("/nowhere.so"), "ImportError: libebb was not found: .*EBB_LIBRARY.*nowhere")
        for members, text in (({"rows": ctypes.c_int32}, "takes 8 bytes at"), ({"moon": ctypes.c_int32}, "has no")):
            with self.assertRaisesRegex(ImportError, text):
                ebb._library._struct("ebb_batch_t", **members)

    def test_importing_starts_no_mpi(self):
        started = ctypes.c_int(1)
        ebb._library.lib.MPI_Initialized(ctypes.byref(started))
        self.assertEqual(started.value, 0)


if __name__ == "__main__":
    s.main()
