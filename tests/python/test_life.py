"""Leases, threads and interrupts: no view ever lies in memory that was given back, and nothing is held for nothing."""
import gc
import importlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from unittest import mock

import support as s
from support import ebb, np

import ebb._loader as internals

OPTIONS = {"batch": 70, "lanes": 12}


def threads(wanted=None):
    """Threads of this process: as soon as they are as many as wanted, else once their number has stood still a while;
    one that was joined can be listed for a moment longer."""
    count, still = None, 0
    for _ in range(500):
        before, count = count, len(os.listdir("/proc/self/task"))
        still = still + 1 if count == before else 0
        if count == wanted or (wanted is None and still > 10):
            break
        time.sleep(0.005)
    return count


class Leases(unittest.TestCase):
    def setUp(self):
        gc.disable()  # leases end by reference count alone

    def tearDown(self):
        gc.enable()

    def test_a_view_of_any_part_keeps_the_batch(self):
        for path in (s.sparse(), s.dense()):
            loader = ebb.Loader(path, **OPTIONS)
            batch = next(iter(loader))
            part = (batch.data if batch.sparse else batch.x)[3:9]
            kept = part.copy()
            del batch
            self.assertEqual(loader.stats()["held"], 1)
            for _ in range(3):
                for _ in loader:
                    np.testing.assert_array_equal(part, kept)
            del part, _
            self.assertEqual(loader.stats()["held"], 0)

    def test_views_outlive_the_loader_and_the_data_set(self):
        before = threads()
        ds = ebb.open(s.sparse())
        loader = ebb.Loader(ds, **OPTIONS)
        batch = next(iter(loader))
        kept = batch.copy()
        loader.close()
        ds.close()
        del loader, ds
        np.testing.assert_array_equal(batch.data, kept.data)
        np.testing.assert_array_equal(batch.rows, kept.rows)
        del batch
        self.assertEqual(threads(before), before)

    def test_closing_ends_the_threads(self):
        before = threads()
        with ebb.Loader(s.sparse(), threads=3, **OPTIONS) as loader:
            for _ in loader:
                pass
            self.assertEqual(threads(before + 3), before + 3)
            del _
        self.assertEqual(threads(before), before)
        self.assertRaisesRegex(ValueError, "closed", next, iter([]) if not loader else map(iter, [loader]))
        loader.close()
        loader = ebb.Loader(s.sparse(), threads=3, **OPTIONS)
        iterator = iter(loader)
        next(iterator)
        del loader, iterator
        self.assertEqual(threads(before), before)

    def test_more_batches_than_there_is_memory_for_are_copies(self):
        loader = ebb.Loader(s.sparse(), depth=3, **OPTIONS)
        wanted = [b.copy() for b in loader]
        self.assertEqual(loader.stats()["copies"], 0)
        loader.seek(0)
        kept = list(loader)
        self.assertEqual(loader.stats()["held"], 2)
        self.assertEqual(loader.stats()["copies"], len(kept) - 2)
        for a, b in zip(kept, wanted):
            np.testing.assert_array_equal(a.rows, b.rows)
            np.testing.assert_array_equal(a.data, b.data)

    def test_moving_leaves_held_batches_alone(self):
        before = threads()
        loader = ebb.Loader(s.sparse(), threads=1, **OPTIONS)
        held = next(iter(loader))
        kept = held.copy()
        loader.seek(3)
        third = [b.rows.tolist() for b in loader]
        np.testing.assert_array_equal(held.data, kept.data)
        del held
        self.assertEqual(threads(before + 1), before + 1)
        self.assertEqual(third, [b.rows.tolist() for b in ebb.Loader(
            s.sparse(), start=ebb.Loader(s.sparse(), **OPTIONS).cursor[:8] + (3).to_bytes(8, "little")
            + loader.cursor[16:24] + loader.cursor[24:], **OPTIONS)])

    def test_batches_dropped_in_other_threads_come_back(self):
        loader = ebb.Loader(s.sparse(), **OPTIONS)
        wanted = {b.step: (b.rows.sum(), b.data.sum()) for b in loader}
        draw = random.Random(1)
        kept, faults = [], []

        def use(batch):
            for _ in range(20):
                if (batch.rows.sum(), batch.data.sum()) != wanted[batch.step]:
                    faults.append(batch.step)

        for _ in range(15):
            loader.seek(0)
            for batch in loader:
                user = threading.Thread(target=use, args=(batch,))
                del batch
                user.start()
                kept.append(user)
                if len(kept) > draw.randrange(8):
                    kept.pop(draw.randrange(len(kept))).join()
        for user in kept:
            user.join()
        del kept[:], user
        self.assertEqual(faults, [])
        self.assertEqual(loader.stats()["held"], 0)

    def test_threads_that_share_a_loader_share_its_batches(self):
        loader, steps = ebb.Loader(s.sparse(), **OPTIONS), []

        def work():
            for batch in loader:
                steps.append((batch.epoch, batch.step))
                if batch.epoch > 0:
                    return

        workers = [threading.Thread(target=work) for _ in range(3)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        self.assertEqual(len(steps), len(set(steps)))
        self.assertEqual({step for epoch, step in steps if epoch == 0}, set(range(len(loader))))

    def test_nothing_is_allocated_after_warm_up(self):
        loader = ebb.Loader(s.sparse(), **OPTIONS)
        for _ in range(5):
            for _ in loader:
                pass
        self.assertEqual(loader.stats()["allocations"], 0)


class Interrupts(unittest.TestCase):
    def test_an_interrupted_call_loses_no_batch(self):
        loader = ebb.Loader(s.sparse(), **OPTIONS)
        wanted = [b.rows.tolist() for b in loader]
        real, draw, got = internals.call, random.Random(2), []

        def interrupted(name, *arguments):
            status = real(name, *arguments)
            if draw.random() < 0.5:
                raise KeyboardInterrupt
            return status

        loader.seek(0)
        while loader.epoch == 0:
            with mock.patch.object(internals, "call", interrupted):
                try:
                    for batch in loader:
                        got.append(batch.rows.tolist())
                except KeyboardInterrupt:
                    pass
        self.assertEqual(got, wanted)
        batch = None
        self.assertEqual(loader.stats()["held"], 0)

    def test_signals_at_any_moment_leave_a_loader_that_works(self):
        loader = ebb.Loader(s.sparse(), **OPTIONS)
        wanted = [b.rows.tolist() for b in loader]
        interrupts = 0

        def handler(*_):
            raise KeyboardInterrupt

        before = signal.signal(signal.SIGALRM, handler)
        try:
            while interrupts < 150:
                interrupts += 1
                try:  # one signal each time, which comes while it is within, or is lost in a finaliser of Python's own
                    signal.setitimer(signal.ITIMER_REAL, random.uniform(5e-5, 2e-3))
                    began = time.monotonic()
                    while time.monotonic() < began + 0.1:
                        for batch in loader:
                            if batch.epoch == 0 and batch.rows.tolist() != wanted[batch.step]:
                                self.fail("wrong rows")
                except KeyboardInterrupt:
                    pass
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        batch = None
        loader.seek(0)
        self.assertEqual([b.rows.tolist() for b in loader], wanted)
        self.assertEqual(loader.stats()["held"], 0)


class Processes(unittest.TestCase):
    def test_a_fork_is_told_to_make_its_own(self):
        loader = ebb.Loader(s.sparse(), **OPTIONS)
        batch = next(iter(loader))
        time.sleep(0.2)  # until nothing is left to read ahead: a sanitiser's allocator does not survive forks amid calls
        child = os.fork()
        if child == 0:
            try:
                next(iter(loader))
            except RuntimeError as error:
                own = sum(len(b) for b in ebb.Loader(s.sparse(), **OPTIONS))
                del batch, loader
                os._exit(0 if "fork" in str(error) and own == s.ROWS else 1)
            os._exit(2)
        self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), 0)
        self.assertEqual(sum(len(b) for b in loader) + len(batch), s.ROWS)

    def test_a_loader_cannot_be_sent(self):
        import pickle
        self.assertRaisesRegex(TypeError, "another process", pickle.dumps, ebb.Loader(s.sparse(), **OPTIONS))

    def test_leaving_with_everything_held_is_quiet(self):
        for path in (s.sparse(), s.dense()):
            program = f"import ebb; loader = ebb.Loader({path!r}, **{OPTIONS}); a = next(iter(loader)); b = next(iter(loader)).y"
            done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
            self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "", ""))


class PyTorchIsNotThere(unittest.TestCase):
    """Without PyTorch its module says what to install; where PyTorch is broken, what PyTorch says is not hidden."""

    def error_of(self, torch):
        with mock.patch.dict(sys.modules), tempfile.TemporaryDirectory() as folder:
            for name in [name for name in sys.modules if name.split(".")[0] == "torch" or name == "ebb.torch"]:
                del sys.modules[name]
            with open(os.path.join(folder, "torch.py"), "w") as f:
                f.write(torch)
            with mock.patch.object(sys, "path", [folder] + sys.path), self.assertRaises(ImportError) as caught:
                importlib.import_module("ebb.torch")
            return str(caught.exception)

    def test_missing(self):
        self.assertIn("pip install torch", self.error_of("raise ModuleNotFoundError('none here', name='torch')"))

    def test_broken(self):
        self.assertEqual(self.error_of("raise ImportError('libcufile.so.0: cannot open')"), "libcufile.so.0: cannot open")


if __name__ == "__main__":
    s.main()
