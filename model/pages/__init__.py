"""Pages of one file each, which run in a browser without a network.

    interactive.py         a photograph that can be pulled and let go (interactive.html)
    user_study.py          a comparison of two sets of videos (user_study.html)
    user_study_results.py  the preference in the answers that people saved

Import from the modules: they need the decoder, PIL and scipy.
"""
