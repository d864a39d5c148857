"""For every promise of docs/reliability.md a change of the code that breaks it, and the test that must notice.

A test that passes whatever the code does guards nothing: `python3 run.py test --faults` makes each of these changes in a copy of
the package and expects its test to fail there.  Who writes a guard adds its mutation here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutation:
    """`old`, which stands once in `file`, becomes `new`; then `test` must fail.  broken: what no longer holds."""

    broken: str
    file: str
    old: str
    new: str
    test: str


MUTATIONS = (
    # --- 1: nothing is half-published
    Mutation(
        "the bytes are on the disk before the name", "hwm/work/files.py",
        "            fsync(temporary)\n            if first", "            if first",
        "tests/work/test_files.py::test_bytes_are_forced_to_the_disk_before_the_name_and_the_name_after",
    ),
    Mutation(
        "a file is written aside and renamed", "hwm/work/files.py",
        "        with atomic_path(path) as temporary:\n            write(temporary)\n", "        write(path)\n",
        "tests/work/test_files.py::test_bytes_are_forced_to_the_disk_before_the_name_and_the_name_after",
    ),
    Mutation(
        "nothing stays of a failed write", "hwm/work/files.py",
        "        temporary.unlink(missing_ok=True)\n\n\ndef _link", "        pass\n\n\ndef _link",
        "tests/work/test_files.py::test_whole_or_absent",
    ),
    Mutation(
        "what a killed process left is removed", "hwm/work/files.py",
        "        _remove_torsos(path)\n        with", "        with",
        "tests/work/test_files.py::test_what_a_killed_process_left_is_removed",
    ),
    Mutation(
        "the best checkpoint stays", "hwm/training/checkpoint.py",
        'if step != state["best_step"]:', "if step:",
        "tests/training/test_checkpoint.py::test_the_newest_and_the_best_are_kept",
    ),
    # --- 2: a resumed training is the same training
    Mutation(
        "noise belongs to its step", "hwm/training/learner.py",
        'self._generator.manual_seed(seed_of(self.config.seed, "loss", micro_step))', "pass",
        "tests/training/test_resume.py::test_a_stopped_run_loses_no_step_and_ends_bit_equal",
    ),
    Mutation(
        "clips belong to their step", "hwm/data/clips.py",
        "_permutation(seed, epoch, num_clips)[", "np.random.default_rng().permutation(num_clips)[",
        "tests/data/test_order.py",
    ),
    Mutation(
        "the optimiser goes on", "hwm/training/learner.py",
        "        load_optimizer_tensors(", "        None and load_optimizer_tensors(",
        "tests/training/test_resume.py::test_a_stopped_run_loses_no_step_and_ends_bit_equal",
    ),
    Mutation(
        "the average goes on", "hwm/training/learner.py",
        "            self.ema.load(", "            None and self.ema.load(",
        "tests/training/test_resume.py::test_a_stopped_run_loses_no_step_and_ends_bit_equal",
    ),
    Mutation(
        "metrics beyond the checkpoint are cut", "hwm/training/run_folder.py",
        "if _belongs(line, step, validated)]", "]",
        "tests/faults/test_training.py::test_kills_end_in_the_same_bytes",
    ),
    Mutation(
        "a run is one configuration", "hwm/training/identity.py",
        "        if before != here.get(key):", "        if False:",
        "tests/training/test_resume.py::test_another_configuration_is_refused_by_the_first_key_that_differs",
    ),
    Mutation(
        "a run learns from the same data", "hwm/training/identity.py",
        "        if None not in (known.get(name), identity.get(name)) and known[name] != identity[name]:", "        if False:",
        "tests/training/test_identity.py::test_a_path_is_only_a_hint",
    ),
    Mutation(
        "data are of the run's robot", "hwm/training/identity.py",
        "        elif other is not None:", "        elif False:",
        "tests/training/test_identity.py::test_data_of_another_robot_are_refused",
    ),
    Mutation(
        "data are of the run's tokenizer", "hwm/training/identity.py",
        "    if mine and theirs and mine != theirs:", "    if False:",
        "tests/training/test_identity.py::test_data_of_another_tokenizer_are_refused",
    ),
    Mutation(
        "the configuration is the checkpoint's", "hwm/training/identity.py",
        """        raise ValueError(f"{run / 'config.toml'}: {fault}; put the file back as it was")""", "        pass",
        "tests/training/test_identity.py::test_the_configuration_is_that_of_the_checkpoint",
    ),
    Mutation(
        "a step that is no number is not taken", "hwm/training/loop.py",
        "                _expect_finite(", "                None and _expect_finite(",
        "tests/faults/test_training.py::test_a_loss_or_gradient_that_is_not_finite_stops_before_the_weights",
    ),
    # --- stops
    Mutation(
        "validation hears of a stop", "hwm/training/learner.py",
        "            if self.processes.any(stop):\n                return None\n            number", "            number",
        "tests/training/test_resume.py::test_a_stop_inside_validation_is_made_good_on_return",
    ),
    Mutation(
        "what is half-written is removed by a stop", "hwm/work/signals.py",
        "    _state.unfinished.add(path)", "    pass",
        "tests/work/test_signals.py::test_work_that_does_not_look_in_time_is_ended_and_leaves_nothing",
    ),
    Mutation(
        "what is not saved gets its time", "hwm/work/signals.py",
        "        if self.heard or any(flag.saving for flag in self.open):", "        if False:",
        "tests/work/test_signals.py::test_who_has_looked_or_holds_what_is_not_saved_gets_its_time",
    ),
    Mutation(
        "where nobody looks a stop ends the command", "hwm/work/signals.py",
        "        return GRACE if len(self.open) > 1 else 0.0", "        return SAVING",
        "tests/work/test_signals.py::test_where_nobody_looks_the_process_ends_at_once",
    ),
    Mutation(
        "a killed process is replaced", "hwm/training/launch.py",
        "RESTARTS = 3", "RESTARTS = 0",
        "tests/training/test_launch.py::test_a_killed_rank_is_replaced_and_a_stop_loses_no_step",
    ),
    Mutation(
        "a folder has one process", "hwm/work/claim.py",
        "return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)", "return None",
        "tests/work/test_claim.py::test_one_holder_at_a_time",
    ),
    Mutation(
        "what is read is not written", "hwm/work/claim.py",
        "if place.exists() and place.samefile(source):", "if False:",
        "tests/work/test_claim.py::test_what_is_read_is_not_written",
    ),
    # --- 3: a flipped bit is found
    Mutation(
        "a checkpoint's files are compared", "hwm/training/checkpoint.py",
        'if sha256(file) != expected["sha256"]:', "if False:",
        "tests/faults/test_corruption.py::test_flipped_bits_are_found_before_use",
    ),
    Mutation(
        "a manifest guards itself", "hwm/training/checkpoint.py",
        "whole = sealed(body) == text", "whole = True",
        "tests/training/test_checkpoint.py::test_a_manifest_guards_itself",
    ),
    Mutation(
        "data are compared with their checksums", "hwm/data/checksums.py",
        "if not sound(file, str(digest)):", "if False:",
        "tests/faults/test_corruption.py::test_training_and_scoring_refuse_a_flipped_bit",
    ),
    Mutation(
        "results and DONE are compared with their checksum", "hwm/work/files.py",
        "    if (checksum or always) and hashlib", "    if False and hashlib",
        "tests/faults/test_corruption.py::test_every_flipped_byte_of_small_files_is_noticed_or_changes_nothing",
    ),
    Mutation(
        "a line of metrics is compared with its checksum", "hwm/training/run_folder.py",
        "numbers and told in (None, _crc(record))", "numbers",
        "tests/faults/test_corruption.py::test_every_flipped_byte_of_small_files_is_noticed_or_changes_nothing",
    ),
    Mutation(
        "a part of a scoring is compared", "hwm/work/parts.py",
        "if self._checksum(name, body) != content[:CHECKSUM_BYTES]:", "if False:",
        "tests/evaluate/test_parts.py::test_every_flipped_bit_and_every_cut_is_noticed",
    ),
    Mutation(
        "a file cut short is noticed while it is read", "hwm/work/files.py",
        "            if left:\n                fault", "            if False:\n                fault",
        "tests/data/test_truncation.py::test_clips_of_a_dataset_cut_short_while_open",
    ),
    # --- 4: nothing runs, nothing leaves the folder, nothing small becomes large
    Mutation(
        "only tensors come out of a pickle", "hwm/safe_load/pickles.py",
        "if not self.any_name and name not in NAMES:", "if False:",
        "tests/faults/test_untrusted.py::test_pickles_as_weights",
    ),
    Mutation(
        "a program needs trust", "hwm/safe_load/program.py",
        "if not trust:", "if False:",
        "tests/faults/test_untrusted.py::test_a_program_that_acts_needs_trust_and_is_held_even_so",
    ),
    Mutation(
        "names stay inside", "hwm/safe_load/paths.py",
        "if not path.resolve().is_relative_to((links_within or root).resolve()):", "if False:",
        "tests/faults/test_untrusted.py::test_names_in_a_file_stay_inside",
    ),
    Mutation(
        "a run opens nothing outside of its folder", "hwm/tokenizers/at_hand.py",
        "    elif not name and named in own_names():", "    elif not name and named:",
        "tests/test_line.py::test_a_run_opens_nothing_outside_of_its_folder",
    ),
    Mutation(
        "JSON is not deep", "hwm/safe_load/text.py",
        "if fault := _excess(value):", "if fault := \"\":",
        "tests/faults/test_bombs.py::test_json",
    ),
    Mutation(
        "a name stands once", "hwm/safe_load/text.py",
        "if len(table) != len(pairs):", "if False:",
        "tests/faults/test_bombs.py::test_json",
    ),
    Mutation(
        "a member is as large as it may be", "hwm/safe_load/archives.py",
        "if size > max_bytes:", "if False:",
        "tests/faults/test_bombs.py::test_a_deflated_member_of_a_gigabyte",
    ),
    Mutation(
        "a video is in proportion to its file", "hwm/data/video.py",
        "max_bytes = min(max_bytes, in_proportion(path))", "pass",
        "tests/faults/test_bombs.py::test_a_video_out_of_proportion_to_its_file_is_not_read_whole",
    ),
    Mutation(
        "weights are finite", "hwm/safe_load/weights.py",
        "wild = [key for key in shapes if not state[key].isfinite().all()]", "wild = []",
        "tests/faults/test_weights.py::test_weights_of_a_tokenizer",
    ),
    # --- 5: every clip is a clip out or a line
    Mutation(
        "lost clips are counted by phase", "hwm/data/quarantine.py",
        "usable_blocks(segments[self.offset(phase) :], self.clock)", "usable_blocks(segments, self.clock)",
        "tests/faults/test_bad_data.py::test_clips_are_counted_from_the_first_frame_of_their_phase",
    ),
    Mutation(
        "lost clips are counted", "hwm/data/quarantine.py",
        '"clips": clips,', '"clips": [0],',
        "tests/faults/test_bad_data.py::test_bad_videos_are_left_out_and_named",
    ),
    Mutation(
        "no clip crosses a segment", "hwm/data/windows.py",
        "    starts = starts[segments[starts] == segments[starts + span]]\n", "",
        "tests/data/test_windows.py::test_blocks_and_pairs",
    ),
    Mutation(
        "no block crosses a segment", "hwm/data/windows.py",
        "segments[first] == segments[first + clock.block - 1]", "True",
        "tests/faults/test_bad_data.py::test_clips_are_counted_from_the_first_frame_of_their_phase",
    ),
    Mutation(
        "tokens are of the vocabulary", "hwm/data/tokens.py",
        "if tokens.min() < 0 or tokens.max() >= self.vocab_size:", "if False:",
        "tests/data/test_bad_input.py::test_token_faults",
    ),
    Mutation(
        "states are finite", "hwm/data/dataset.py",
        "if not np.isfinite(states).all():", "if False:",
        "tests/faults/test_bad_data.py::test_bad_states_are_left_out_and_named",
    ),
    # --- the page's server
    Mutation(
        "requests name the server's own host", "hwm/interact/guard.py",
        "        if host not in self.hosts:", "        if False:",
        "tests/interact/test_guard.py::test_a_name_that_was_made_to_point_here_is_refused",
    ),
    Mutation(
        "sockets come from its own page", "hwm/interact/guard.py",
        """ and self._one(scope, b"origin") == f"http://{host}":""", ":",
        "tests/interact/test_guard.py::test_a_socket_of_another_site_is_refused",
    ),
    Mutation(
        "without the cookie there is nothing", "hwm/interact/guard.py",
        """        if not known:\n            return await _answer(send, 403, "Open""",
        """        if False:\n            return await _answer(send, 403, "Open""",
        "tests/interact/test_guard.py::test_without_the_cookie_there_is_nothing",
    ),
    Mutation(
        "a link is good once", "hwm/interact/guard.py",
        "        self.token, cookie = secrets.token_urlsafe(32), secrets", "        cookie = secrets",
        "tests/interact/test_guard.py::test_a_token_is_good_once",
    ),
    Mutation(
        "messages have a greatest size", "hwm/interact/session.py",
        """            if len(text.encode("utf-8", "surrogatepass")) > self.limits.message_bytes:""", "            if False:",
        "tests/interact/test_session.py::test_what_is_no_message_ends_the_session",
    ),
    Mutation(
        "messages have a rate", "hwm/interact/session.py",
        "            if not self._rate.allows():", "            if False:",
        "tests/interact/test_session.py::test_a_flood_ends_the_session",
    ),
    Mutation(
        "commands are finite numbers", "hwm/interact/drive.py",
        "        if not all(abs(x) < 1e300 for x in wanted):", "        if False:",
        "tests/interact/test_drive.py::test_a_command_is_a_finite_number_for_each_state",
    ),
    Mutation(
        "pictures wait for who takes them", "hwm/interact/session.py",
        "            while self.unconfirmed >= CREDIT:", "            while False:",
        "tests/interact/test_session.py::test_who_does_not_confirm_gets_two_pictures_and_no_heap_of_them",
    ),
    Mutation(
        "a model that fails ends nobody", "hwm/interact/session.py",
        "            except Exception as error:", "            except ValueError as error:",
        "tests/interact/test_session.py::test_a_model_that_fails_is_told_and_can_be_started_again",
    ),
    Mutation(
        "who has gone makes place", "hwm/interact/session.py",
        "            self.host.sessions.discard(self)\n", "",
        "tests/interact/test_session.py::test_only_so_many_drive_and_places_are_given_back",
    ),
    # --- submissions, configurations
    Mutation(
        "an index stands once for a token", "hwm/evaluate/submission.py",
        "if (np.diff(np.sort(indices, axis=-1), axis=-1) == 0).any():", "if False:",
        "tests/evaluate/test_submission.py::test_bad_arrays_are_refused_in_one_line_and_leave_nothing",
    ),
    Mutation(
        "what was written is read again", "hwm/evaluate/submission.py",
        "        return check(temporary)", "        return Submission(len(wanted), 0, readme)",
        "tests/faults/test_evaluating.py::test_what_was_damaged_while_it_was_written_is_found_before_it_gets_its_name",
    ),
    Mutation(
        "an unknown key is named", "hwm/config.py",
        "if key not in names:", "if False:",
        "tests/faults/test_config.py::test_a_wrong_setting_is_one_line_before_torch",
    ),
)  # fmt: skip
