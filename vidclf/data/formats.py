"""What counts as a video: FFmpeg's containers that are read, and how the names of their files end."""

CONTAINERS = {
    "avi": (".avi", ".divx"),
    "mov": (".mov", ".qt", ".mp4", ".m4v", ".f4v", ".3gp", ".3g2"),
    "matroska": (".mkv", ".webm"),
    "mpeg": (".mpg", ".mpeg", ".mpe", ".vob", ".mod", ".m2p"),
    "mpegts": (".ts", ".mts", ".m2ts", ".m2t", ".tod"),
    "asf": (".wmv", ".asf"),
    "flv": (".flv",),
    "ogg": (".ogv", ".ogm"),
    "rm": (".rm", ".rmvb"),
    "dv": (".dv", ".dif"),
    "gif": (".gif",),
    "apng": (".apng",),
    "mxf": (".mxf",),
    "gxf": (),
    "nut": (".nut",),
    "nsv": (".nsv",),
    "wtv": (".wtv",),
    "ivf": (".ivf",),
    "yuv4mpegpipe": (".y4m",),
    # Pictures alone, without a container around them.
    "mpegvideo": (".m1v", ".m2v", ".mpv"),
    "m4v": (),
    "mjpeg": (".mjpeg", ".mjpg"),
    "mpjpeg": (),
    "h261": (".h261",),
    "h263": (".h263",),
    "h264": (".h264", ".264", ".avc"),
    "hevc": (".hevc", ".h265", ".265"),
    "vvc": (".vvc", ".h266", ".266"),
    "av1": (),
    "obu": (".obu",),
    "vc1": (".vc1",),
    "dirac": (".drc",),
}
"""File name endings by the short name of FFmpeg's demuxer, which finds out by content what a file is.

None but those that hold their pictures themselves: playlists as HLS or concat open other files.
"""
