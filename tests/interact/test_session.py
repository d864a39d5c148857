"""A session: what a driver gets, and what becomes of messages that are none."""

import json
import time

import numpy as np
import pytest

pytest.importorskip("starlette", reason="the extra serve is not installed")
from drivers import ANSWERED

from hwm.interact.drive import Drive


def test_a_driver_sees_the_recording_then_what_he_does(served, studio):
    with served().drive() as driver:
        assert driver.told("hello")["names"] == list(studio.robot.names)
        header, (dream, truth, doubt) = driver.picture()
        assert header["frame"] == 0 and dream[:2] == truth[:2] == b"\xff\xd8" and not doubt and header["stamp"] is None
        header, _ = driver.picture()
        assert header["follow"] and header["psnr"] > 0
        driver.say(do="doubt", by="glance")
        driver.say(do="command", at=123.5, target=studio.high.tolist())
        header, (_, _, doubt) = driver.picture(lambda header: header["stamp"] is not None)
        assert header["stamp"] == 123.5 and not header["follow"] and header["psnr"] is None
        assert header["doubt"][0] == "predicted change" and doubt[:2] == b"\xff\xd8"
        assert driver.picture()[0]["stamp"] is None
        driver.say(do="start", clip=1)
        driver.until(lambda found: isinstance(found, dict) and found["say"] == "state" and found["clip"] == 1 and found["follow"])


def test_paused_it_goes_a_step_at_a_time_and_faster_when_told(served):
    with served().drive() as driver:
        driver.told("state")
        driver.say(do="pause", on=True)
        driver.until(lambda found: isinstance(found, dict) and not found.get("playing", True))
        driver.say(do="step")
        header, _ = driver.picture()
        driver.say(do="step")
        after, _ = driver.picture()
        assert after["frame"] == header["frame"] + 1
        driver.say(do="speed", value=4)
        driver.say(do="pause", on=False)
        assert driver.until(lambda found: isinstance(found, dict) and found.get("speed") == 4)
        driver.picture()


def test_the_recording_ends_and_a_command_goes_on(served, studio):
    with served().drive() as driver:
        driver.say(do="speed", value=4)
        told = driver.until(lambda found: isinstance(found, dict) and "ends here" in found.get("note", ""))
        assert not told["playing"]
        driver.say(do="command", at=1, target=studio.low.tolist())
        assert driver.picture(lambda header: header["stamp"] == 1)[0]["frame"] == 88


def test_recordings_go_where_the_server_says(served, tmp_path):
    with served().drive() as driver:
        driver.say(do="record", on=True, folder="/etc", name="../x")
        driver.until(lambda found: isinstance(found, dict) and found.get("recording"))
        driver.picture()
        driver.picture()
        driver.say(do="record", on=False)
        driver.until(lambda found: isinstance(found, dict) and found.get("note", "").startswith("written: "))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["drive-001", "drive-001.mp4"]


@pytest.mark.fault("F19", "it is said, the session lives, others go on")
def test_a_model_that_fails_is_told_and_can_be_started_again(served, monkeypatch):
    with served().drive() as driver:
        driver.picture()
        with monkeypatch.context() as patch:
            patch.setattr(Drive, "step", lambda self: 1 / 0)
            assert "ZeroDivisionError" in driver.told("fault")["text"]
        driver.say(do="start", clip=0)
        assert driver.picture(lambda header: header["frame"] == 3)


# ---- attacks: messages

DEEP = '{"do":' + "[" * 5000 + "]" * 5000 + "}"


@pytest.mark.fault("B13", ANSWERED)
@pytest.mark.parametrize("sent, code", [
    ("no json", 1007), ("", 1007), ("[]", 1007), ("7", 1007), ('"x"', 1007), (DEEP, 1007), ('{"do":"here","do":"step"}', 1007),
    (b"\x00\x01", 1007), ('{"do":"here","x":"' + "x" * 16_384 + '"}', 1009), ('{"at":' + "9" * 5000 + "}", 1007),
])  # fmt: skip
def test_what_is_no_message_ends_the_session(served, sent, code):
    with served().drive() as driver:
        driver.told("state")
        driver.session.send_bytes(sent) if isinstance(sent, bytes) else driver.session.send_text(sent)
        assert driver.closed() == code


ZEROS = json.dumps([0] * 25)


@pytest.mark.fault("B13", ANSWERED)
@pytest.mark.parametrize("sent", [
    "{}", '{"do":null}', '{"do":"quit"}', '{"do":["start"]}', '{"do":"__init__"}', '{"do":"start"}', '{"do":"start","clip":-1}',
    '{"do":"start","clip":0.5}', '{"do":"start","clip":99999}', '{"do":"start","clip":"0"}', '{"do":"speed","value":0}',
    '{"do":"speed","value":NaN}', '{"do":"pause","on":1}', '{"do":"doubt"}', '{"do":"doubt","by":"spread"}',
    '{"do":"record","on":"yes"}',
    '{"do":"record","on":false}' + " ", f'{{"do":"command","target":{ZEROS}}}', f'{{"do":"command","at":-1,"target":{ZEROS}}}',
    f'{{"do":"command","at":Infinity,"target":{ZEROS}}}', '{"do":"command","at":1}', '{"do":"command","at":1,"target":[0]}',
    f'{{"do":"command","at":1,"target":{ZEROS.replace("0]", "NaN]")}}}',
    f'{{"do":"command","at":1,"target":{ZEROS.replace("0]", "1e999]")}}}',
])  # fmt: skip
def test_what_cannot_be_done_is_said_and_the_session_lives(served, sent):
    with served().drive() as driver:
        driver.told("state")
        driver.session.send_text(sent)
        if not sent.endswith(" "):  # stopping to record what is not recorded is nothing
            assert driver.told("refused")["text"]
        assert driver.picture(lambda header: header["frame"] > 1)


@pytest.mark.fault("B13", ANSWERED)
def test_states_beyond_their_range_are_held_at_its_end(served, studio):
    with served().drive() as driver:
        driver.say(do="command", at=1, target=[1e299] * 25)
        header, _ = driver.picture(lambda header: header["stamp"] == 1)
        assert header["held"] == 25 and (np.array(header["states"]) <= studio.high + 1e-3).all()


@pytest.mark.fault("B13", ANSWERED)
def test_many_faulty_messages_end_the_session(served):
    with served(refusals=3).drive() as driver:
        for _ in range(3):
            driver.say(do="nothing")
        assert driver.closed() == 1008


@pytest.mark.fault("B13", ANSWERED)
def test_a_flood_ends_the_session(served):
    with served(messages=1, burst=20).drive() as driver:
        for _ in range(40):
            driver.say(do="here")
        assert driver.closed() == 1008


def test_only_so_many_drive_and_places_are_given_back(served):
    made = served(sessions=2)
    with made.drive() as first, made.drive() as second:
        first.picture()
        second.picture()
        with made.drive() as third:
            assert third.closed() == 1013
        assert first.picture() and second.picture()
    deadline = time.monotonic() + 10
    while made.host.sessions and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not made.host.sessions
    with made.drive() as again:
        assert again.picture()


@pytest.mark.parametrize("limit, code", [("slow", 1008), ("silent", 1001), ("idle", 1001)])
def test_who_does_nothing_makes_place(served, limit, code):
    with served(**{limit: 0.3}).drive() as driver:
        if limit == "idle":
            assert driver.closed() == code
            return
        for _ in range(200):  # pictures come, and are not confirmed
            message = driver.session.receive()
            if message["type"] == "websocket.close":
                break
        assert message["code"] == code


@pytest.mark.fault("B13", ANSWERED)
def test_who_does_not_confirm_gets_two_pictures_and_no_heap_of_them(served):
    with served(slow=0.5).drive() as driver:
        found = []
        while (message := driver.session.receive())["type"] != "websocket.close":
            found += [message["bytes"]] if message.get("bytes") else []
        assert len(found) == 2
