"""The mixin for test cases, in small projects of users."""

from __future__ import annotations

import sys

import pytest

from tests.django.projects import Project

pytest_plugins = ["pytester"]

CASES = """
import threading
import unittest

from channels.layers import get_channel_layer
from channels.testing import WebsocketCommunicator
from django.test import SimpleTestCase, TestCase, TransactionTestCase
from mychat import Mixed, Plain

from channels_mpx.testing import ChannelLayerTestMixin


class Common(ChannelLayerTestMixin):
    channel_layer_config = {"capacity": 9}

    def setUp(self):
        super().setUp()
        assert get_channel_layer() is self.layer

    def test_sync(self):
        get_channel_layer().sync.group_send("room", {"type": "a"})
        self.assertEqual(self.outbox.to_group("room"), [{"type": "a"}])
        self.assertEqual((self.layer.capacity, self.layer.options.prefix), (9, "mine"))


class Async(Common):
    async def test_async(self):
        there = self.other_process()
        for consumer in (Plain, Mixed):
            person = WebsocketCommunicator(consumer.as_asgi(), "/")
            assert (await person.connect())[0]
            await there.group_send("room", {"type": "said", "text": "a"})
            self.assertEqual(await person.receive_json_from(), "a")
            self.broker.kill_connections()
            await self.broker.recovered()
            await there.group_send("room", {"type": "said", "text": "b"})
            self.assertEqual(await person.receive_json_from(), "b")
            await person.disconnect()


class TestPlain(Common, unittest.TestCase):
    pass


class TestAsyncio(Async, unittest.IsolatedAsyncioTestCase):
    pass


class TestSimple(Common, SimpleTestCase):
    pass


class TestTransactions(Async, TransactionTestCase):
    pass


class TestDjango(Async, TestCase):
    pass


class TestOther(ChannelLayerTestMixin, SimpleTestCase):
    channel_layer_alias = "other"

    def test_alias(self):
        self.assertIs(get_channel_layer("other"), self.layer)


class TestZAfterwards(unittest.TestCase):
    def test_nothing_is_left(self):
        self.assertIn("192.0.2.1", repr(get_channel_layer()))
        self.assertNotIn("mpx", str(threading.enumerate()))
"""


def test_test_cases_under_pytest(project: Project) -> None:
    """Those of Django and of the standard library, as pytest runs them."""
    project.passes(10, CASES)


def test_test_cases_under_djangos_runner(
    project: Project, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same without pytest, where warnings are errors."""
    pytester.makepyfile(test_it=CASES)
    blocked = pytester.makepyfile(
        run="""
        import sys

        sys.modules["pytest"] = sys.modules["_pytest"] = None
        from django.core.management import execute_from_command_line

        execute_from_command_line(["manage.py", "test"])
        """
    )
    done = pytester.run(sys.executable, "-W", "error", blocked)
    assert done.ret == 0, done.stderr.str()
    done.stderr.fnmatch_lines(["Ran 10 tests in *", "OK"])
    for word in ("never retrieved", "never awaited", "was destroyed", "Warning"):
        assert word not in done.stdout.str() + done.stderr.str()


def test_mixin_behind_the_test_case(project: Project) -> None:
    """It would do nothing there: refused when the class is defined."""
    done = project.run(
        """
        from django.test import SimpleTestCase
        from channels_mpx.testing import ChannelLayerTestMixin

        class Wrong(SimpleTestCase, ChannelLayerTestMixin):
            pass
        """
    )
    done.assert_outcomes(errors=1)
    done.stdout.fnmatch_lines(["*Wrong must have ChannelLayerTestMixin before its test case*"])


def test_set_up_that_forgets_the_mixin(project: Project) -> None:
    """Its tests would use the real layer: they fail, and say why."""
    done = project.run(
        """
        from unittest import mock
        from django.test import SimpleTestCase
        from channels_mpx.testing import ChannelLayerTestMixin

        class Forgetful:
            def setUp(self):
                pass

        class TestOne(ChannelLayerTestMixin, SimpleTestCase):
            def setUp(self):
                pass

            def test_it(self):
                pass

        class TestTwo(Forgetful, ChannelLayerTestMixin, SimpleTestCase):
            def test_it(self):
                pass

        class TestThree(ChannelLayerTestMixin, SimpleTestCase):
            @mock.patch("os.getcwd")
            def setUp(self, getcwd):
                pass

            def test_it(self):
                pass
        """
    )
    done.assert_outcomes(failed=3)
    done.stdout.fnmatch_lines(
        ["*setUp() of TestOne must call super*", "*setUp() of TestTwo must call super*"]
    )
