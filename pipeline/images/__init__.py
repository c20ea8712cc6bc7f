"""Pictures: photographs read from files, arrays drawn as pictures, and frames encoded as files.

    photo.py    reads a photograph of any common format as sRGB, and crops it
    draw.py     draws motion and other maps as pictures, and lays pictures out
    film.py     encodes films as mp4 (H.264) or webm (VP9)
    encode.py   encodes frames as a file of any kind: mp4, webm, gif, webp or png

Import from the modules: film.py needs av.
"""
