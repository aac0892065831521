"""The pytest plugin, in small projects of users."""

from __future__ import annotations

import pytest

from tests.django.projects import Project

pytest_plugins = ["pytester"]

TWO_PEOPLE = """
    import asyncio
    import time

    import pytest
    from channels.layers import get_channel_layer
    from channels.testing import WebsocketCommunicator
    from mychat import Mixed, Plain, Sync

    pytestmark = [{marks}]


    @pytest.mark.parametrize("consumer", [Plain, Mixed])
    async def test_two_people(consumer, mpx_layer, mpx_outbox):
        assert get_channel_layer() is mpx_layer
        people = [WebsocketCommunicator(consumer.as_asgi(), "/") for _ in range(2)]
        for person in people:
            assert (await person.connect())[0]
        await people[0].send_json_to({{"text": "hello"}})
        for person in people:
            assert await person.receive_json_from() == "hello"
            await person.disconnect()
        assert mpx_outbox.to_group("room") == [{{"type": "said", "text": "hello"}}]


    @pytest.mark.parametrize("consumer", [Plain, Mixed, Sync])
    async def test_another_process(consumer, mpx_other_process, mpx_broker):
        person = WebsocketCommunicator(consumer.as_asgi(), "/")
        assert (await person.connect())[0]
        await mpx_other_process.group_send("room", {{"type": "said", "text": "a"}})
        assert await person.receive_json_from() == "a"
        mpx_broker.kill_connections()
        await mpx_broker.recovered()
        with mpx_broker.drop(1.0):
            await mpx_other_process.group_send("room", {{"type": "said", "text": "lost"}})
        with mpx_broker.delay(0.05):
            began = time.monotonic()
            await mpx_other_process.group_send("room", {{"type": "said", "text": "b"}})
            assert time.monotonic() - began >= 0.05
        assert await person.receive_json_from() == "b"
        with mpx_broker.freeze():
            message = {{"type": "said", "text": "c"}}
            sending = asyncio.ensure_future(mpx_other_process.group_send("room", message))
            assert await person.receive_nothing(0.05)
        await sending
        assert await person.receive_json_from() == "c"
        await person.disconnect()


    async def test_consumer_that_nobody_ends(mpx_layer):
        person = WebsocketCommunicator(Plain.as_asgi(), "/")
        assert (await person.connect())[0]
"""


@pytest.mark.parametrize(
    ("marks", "options"),
    [
        ("", []),
        ("pytest.mark.asyncio", ["-o", "asyncio_mode=strict"]),
        (
            "pytest.mark.asyncio(loop_scope='session')",
            ["-o", "asyncio_default_fixture_loop_scope=session"],
        ),
        ("pytest.mark.django_db", []),
        ("pytest.mark.django_db(transaction=True)", []),
    ],
    ids=["auto", "strict", "one-loop", "database", "transactions"],
)
def test_consumers_under_pytest_asyncio_and_pytest_django(
    project: Project, marks: str, options: list[str]
) -> None:
    """Plain, mixin and sync consumers, through Channels' communicator, with every fault."""
    project.passes(6, TWO_PEOPLE.format(marks=marks), *options)


def test_views_and_other_sync_code(project: Project) -> None:
    """The outbox tells what was sent; a thread of ours has ended with the test."""
    project.passes(
        2,
        """
        import threading

        from asgiref.sync import async_to_sync
        from channels.layers import get_channel_layer


        def test_sync(mpx_outbox):
            get_channel_layer().sync.group_send("room", {"type": "a"})
            async_to_sync(get_channel_layer().group_send)("room", {"type": "b"})
            assert mpx_outbox.to_group("room") == [{"type": "a"}, {"type": "b"}]


        def test_afterwards():
            assert [thread for thread in threading.enumerate() if "mpx" in thread.name] == []
        """,
    )


def test_settings_of_the_project_and_markers(project: Project) -> None:
    """CONFIG counts but for hosts; markers win over it, the nearest over the others."""
    project.passes(
        6,
        """
        import pytest
        from channels.layers import InMemoryChannelLayer, channel_layers, get_channel_layer


        def test_settings(mpx_layer, mpx_other_process):
            for layer in (mpx_layer, mpx_other_process):
                assert (layer.capacity, layer.options.prefix) == (7, "mine")
                assert layer.codec.encrypts
                assert "memory://" in repr(layer)


        @pytest.mark.mpx(capacity=1, expiry=5)
        class TestMarked:
            @pytest.mark.mpx(capacity=2, prefix="test", seed=3)
            def test_marker(self, mpx_layer, mpx_other_process):
                for layer in (mpx_layer, mpx_other_process):
                    assert (layer.capacity, layer.expiry, layer.options.prefix) == (2, 5, "test")

            def test_marker_is_enough(self):
                layer = get_channel_layer()
                assert (layer.capacity, repr(layer).count("memory://testing")) == (1, 1)


        @pytest.mark.parametrize(
            "capacity", [7, pytest.param(3, marks=pytest.mark.mpx(capacity=3))]
        )
        def test_marker_of_one_parameter(capacity):
            layer = get_channel_layer()
            assert layer.capacity == capacity
            assert ("memory://" in repr(layer)) == (capacity == 3)


        @pytest.mark.mpx(alias="other")
        def test_alias(mpx_layer):
            assert get_channel_layer("other") is mpx_layer
            assert mpx_layer.capacity == 100
            assert "192.0.2.1" in repr(get_channel_layer())
        """,
    )


def test_every_layer_is_as_before_afterwards(project: Project) -> None:
    """A layer that was there comes back, one that was not is gone, and CHANNEL_LAYERS counts."""
    project.passes(
        4,
        """
        import pytest
        from channels.layers import InMemoryChannelLayer, channel_layers, get_channel_layer

        before = get_channel_layer("other")


        @pytest.mark.mpx(alias="other")
        def test_alias(mpx_layer):
            assert get_channel_layer("other") is mpx_layer


        @pytest.mark.mpx(alias="unheard.of")
        def test_unknown_alias(mpx_layer):
            assert get_channel_layer("other") is before
            assert get_channel_layer("unheard.of") is mpx_layer


        def test_settings_that_change(mpx_layer, settings):
            assert get_channel_layer("unheard.of") is None
            backend = "channels.layers.InMemoryChannelLayer"
            settings.CHANNEL_LAYERS = {"default": {"BACKEND": backend}}
            assert isinstance(get_channel_layer(), InMemoryChannelLayer)


        def test_afterwards():
            assert "192.0.2.1" in repr(get_channel_layer())
        """,
    )


@pytest.mark.parametrize(
    ("marker", "text"),
    [
        ("5", "*takes keyword arguments only, not (5,)*"),
        ("capactiy=5", "*capactiy*did you mean*capacity*"),
        ("hosts=['redis://localhost']", "*hosts is not for layers under test*"),
    ],
)
def test_marker_that_is_wrong(project: Project, marker: str, text: str) -> None:
    """It says so."""
    done = project.run(
        f"""
        import pytest


        @pytest.mark.mpx({marker})
        def test_marked():
            pass
        """
    )
    done.assert_outcomes(errors=1)
    done.stdout.fnmatch_lines([text])


def test_plain_pytest_without_django_settings(project: Project) -> None:
    """Layers need no settings, nor any other plugin."""
    project.make_plain()
    project.passes(
        2,
        """
        import asyncio

        from channels.layers import get_channel_layer


        def test_loop(mpx_layer, mpx_other_process):
            async def converse():
                channel = await mpx_layer.new_channel()
                await mpx_layer.group_add("room", channel)
                await mpx_other_process.group_send("room", {"type": "a"})
                return await get_channel_layer().receive(channel)

            assert asyncio.run(converse()) == {"type": "a"}


        def test_thread(mpx_layer, mpx_outbox):
            mpx_layer.sync.send("work", {"type": "b"})
            assert mpx_outbox.to_channel("work") == [{"type": "b"}]
        """,
    )


def test_consumers_without_daphne(project: Project) -> None:
    """Channels' own communicators import it; asgiref's does without."""
    project.passes(
        2,
        """
        import sys

        import pytest
        from asgiref.testing import ApplicationCommunicator
        from mychat import Mixed, Plain

        sys.modules["daphne"] = None


        @pytest.mark.parametrize("consumer", [Plain, Mixed])
        async def test_consumer(consumer, mpx_other_process):
            with pytest.raises(ImportError, match="daphne"):
                import channels.testing
            person = ApplicationCommunicator(consumer.as_asgi(), {"type": "websocket"})
            await person.send_input({"type": "websocket.connect"})
            assert (await person.receive_output())["type"] == "websocket.accept"
            await mpx_other_process.group_send("room", {"type": "said", "text": "a"})
            assert (await person.receive_output())["text"] == '"a"'
            await person.send_input({"type": "websocket.disconnect", "code": 1000})
            await person.wait()
        """,
    )


def test_projects_that_do_not_use_it_do_not_notice(project: Project) -> None:
    """The plugin is there, and has touched neither Django's settings nor any event loop."""
    project.make_plain()
    project.passes(
        1,
        """
        import threading

        from django.conf import settings


        def test_nothing(pytestconfig):
            assert pytestconfig.pluginmanager.has_plugin("channels_mpx")
            assert not settings.configured
            assert threading.active_count() == 1
        """,
        "--strict-markers",
    )


def test_plugin_can_be_switched_off(project: Project) -> None:
    """The negative control: no fixture is there."""
    done = project.run("def test_layer(mpx_layer): pass", "-p", "no:channels_mpx")
    done.assert_outcomes(errors=1)
    done.stdout.fnmatch_lines(["*fixture 'mpx_layer' not found*"])


def test_marker_is_shown(project: Project) -> None:
    """In ``pytest --markers``; and items that are no functions are left alone."""
    done = project.run("'''\n>>> 1\n1\n'''", "--markers")
    done.stdout.fnmatch_lines(["@pytest.mark.mpx(alias='default'*"])
    project.passes(1, "'''\n>>> 1\n1\n'''", "--doctest-modules")


POISON = """
    import pytest
    from channels.layers import get_channel_layer
    from channels.testing import WebsocketCommunicator
    from mychat import Plain


    @pytest.fixture
    async def person(mpx_layer):
        person = WebsocketCommunicator(Plain.as_asgi(), "/")
        assert (await person.connect())[0]
        yield person
        await person.disconnect()


    async def test_that_times_out(person, mpx_layer):
        await mpx_layer.group_send("elsewhere", {"type": "left over"})
        await person.receive_json_from(0.01)


    @pytest.mark.mpx(capacity=2)
    async def test_afterwards(mpx_layer, mpx_outbox, mpx_broker):
        assert mpx_layer.capacity == 2
        assert mpx_outbox == []
        assert get_channel_layer() is mpx_layer


    @pytest.mark.mpx(prefix="again")
    async def test_once_more(person, mpx_outbox):
        await person.send_json_to({"text": "hello"})
        assert await person.receive_json_from() == "hello"
        assert mpx_outbox.to_group("room") == [{"type": "said", "text": "hello"}]


    def test_without_a_layer_of_its_own():
        assert "192.0.2.1" in repr(get_channel_layer())
"""


def test_test_that_times_out_leaves_nothing_to_the_next(project: Project) -> None:
    """Channels' communicator then raises CancelledError in the teardown of its fixture.

    Pytest goes no further with the teardown, and keeps what the other fixtures have made.
    """
    done = project.run(POISON)
    done.assert_outcomes(passed=3, failed=1, errors=1)
    done.stdout.fnmatch_lines(["*ERROR at teardown of test_that_times_out*"])


@pytest.mark.parametrize("fault", ["delay(1)", "drop(1.0)", "freeze()", "down()"])
def test_fault_without_its_block(project: Project, fault: str) -> None:
    """It does nothing, and says so."""
    done = project.run(f"def test_fault(mpx_broker): mpx_broker.{fault}")
    name = fault.partition("(")[0]
    done.stdout.fnmatch_lines([f"*RuntimeWarning: Broker.{name}() does nothing by itself*"])
    project.passes(1, f"def test_fault(mpx_broker):\n    with mpx_broker.{fault}: pass")
