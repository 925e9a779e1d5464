"""Header blocks of the load client, against the hpack library's own encoder and decoder."""

from hpack import Decoder, Encoder

from bench.hpack_client import AnswerBlocks, RequestBlocks

PATHS = ["/etcdserverpb.KV/Range", "/etcdserverpb.KV/Txn", "/etcdserverpb.Watch/Watch"]


def headers_of(path):
    return {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "127.0.0.1:2379",
        "content-type": "application/grpc",
        "user-agent": "kine-bench",
        "te": "trailers",
    }


def test_every_block_decodes_to_the_call_s_headers():
    blocks, decoder = RequestBlocks("127.0.0.1:2379", secure=False), Decoder()

    for path in [*PATHS, *PATHS, PATHS[1], PATHS[0]]:
        block, _ = blocks.block(path)
        assert dict(decoder.decode(block)) == headers_of(path)


def test_a_known_path_is_only_indexes():
    blocks = RequestBlocks("127.0.0.1:2379", secure=False)
    blocks.block(PATHS[0])

    block, stable = blocks.block(PATHS[0])

    assert stable
    assert min(block) >= 0x80
    assert len(block) == 7


def test_a_new_path_moves_the_indexes_of_the_others():
    blocks = RequestBlocks("127.0.0.1:2379", secure=False)
    blocks.block(PATHS[0])
    before, _ = blocks.block(PATHS[0])

    _, stable = blocks.block(PATHS[1])

    assert not stable
    assert blocks.block(PATHS[0])[0] != before


def test_a_server_without_a_table_gets_literals():
    blocks, decoder = RequestBlocks("127.0.0.1:2379", secure=False, table_size=0), Decoder()
    decoder.max_allowed_table_size = 0

    for path in [*PATHS, *PATHS]:
        block, _ = blocks.block(path)
        assert dict(decoder.decode(block)) == headers_of(path)
    assert decoder.header_table_size == 0


def test_answers_decode_as_the_library_encodes_them():
    encoder, answers = Encoder(), AnswerBlocks()
    opening = [(":status", "200"), ("content-type", "application/grpc")]
    failure = [("grpc-status", "11"), ("grpc-message", "required revision has been compacted")]

    for headers in [
        opening,
        [("grpc-status", "0")],
        opening,
        failure,
        opening,
        [("grpc-status", "0")],
        failure,
    ]:
        assert answers.decode(encoder.encode(headers)) == dict(headers)


def test_the_same_bytes_mean_other_headers_once_the_table_changed():
    encoder, answers = Encoder(), AnswerBlocks()
    answers.decode(encoder.encode([("grpc-status", "0")]))
    newest = b"\xbe"  # the dynamic table's first entry
    before = answers.decode(newest)
    answers.decode(encoder.encode([("grpc-status", "14")]))

    assert before == {"grpc-status": "0"}
    assert answers.decode(newest) == {"grpc-status": "14"}
