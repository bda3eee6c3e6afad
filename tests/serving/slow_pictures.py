"""Pictures that cost a decoder far more than their size: written bit by bit after ITU-T H.264."""

_MBS_WIDE, _MBS_HIGH = 120, 75  # 1920×1200


def h264_keyframe(mbs_wide: int = _MBS_WIDE, mbs_high: int = _MBS_HIGH) -> bytes:
    """A grey picture of 1920×1200, or of so many blocks of 16×16, with its parameter sets."""
    sps = _bits(66, 8) + _bits(0, 8) + _bits(51, 8) + _ue(0) + _ue(0) + _ue(2) + _ue(1) + "0"
    sps += _ue(mbs_wide - 1) + _ue(mbs_high - 1) + "1" + "0" + "0" + "0"
    pps = _ue(0) * 2 + "0" + "0" + _ue(0) * 3 + "0" + "00" + _ue(0) * 3 + "1" + "0" + "0"
    head = _ue(0) + _ue(7) + _ue(0) + _bits(0, 4) + _ue(0) + "00" + _ue(0) + _ue(1)
    # Intra 16×16 from the mean of its neighbours, and no coefficients.
    macroblock = _ue(3) + _ue(0) + _ue(0) + "1"
    return _nal(0x67, sps) + _nal(0x68, pps) + _nal(0x65, head + macroblock * (mbs_wide * mbs_high))


def h264_slow_picture(slices: int) -> bytes:
    """The picture after it, unchanged, all but its first block said `slices` times: 11 bytes and a millisecond each."""
    rest = _skipped(1, _MBS_WIDE * _MBS_HIGH - 1)
    return _skipped(0, 1) + rest * slices


def _skipped(first: int, count: int) -> bytes:
    head = _ue(first) + _ue(0) + _ue(0) + _bits(1, 4) + "0" + "0" + "0" + _ue(0) + _ue(1)
    return _nal(0x41, head + _ue(count))


def _bits(value: int, count: int) -> str:
    return f"{value:0{count}b}"


def _ue(value: int) -> str:
    """An unsigned Exp-Golomb code."""
    code = f"{value + 1:b}"
    return "0" * (len(code) - 1) + code


def _nal(kind: int, bits: str) -> bytes:
    bits += "1"
    bits += "0" * (-len(bits) % 8)
    body, zeros = bytearray(), 0
    for byte in int(bits, 2).to_bytes(len(bits) // 8, "big"):
        if zeros == 2 and byte <= 3:  # no start code within
            body.append(3)
            zeros = 0
        body.append(byte)
        zeros = zeros + 1 if byte == 0 else 0
    return b"\0\0\0\1" + bytes([kind]) + bytes(body)
