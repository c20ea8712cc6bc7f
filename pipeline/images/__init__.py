"""Pictures: photographs read from files, arrays drawn as pictures, and frames encoded as files.

    photo.py    reads a photograph of any common format as sRGB, and crops it
    draw.py     draws motion and other maps as pictures, and lays pictures out
    encode.py   encodes frames as mp4, webm, gif, webp or png

Import from the modules: encode.py needs av.
"""
