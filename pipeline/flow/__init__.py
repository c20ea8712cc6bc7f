"""Dense optical flow from one frame to others, behind one interface.

An estimator prepares each frame once, however many windows of a stretch need it, and then measures
displacements between prepared frames. The direction is forward: source(p) is seen at p + F(p) in
the target.
"""
