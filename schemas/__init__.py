"""Values that cross a process or a disk border: validate, encode, decode, and no other behavior.

clip             a listed clip, its probed video, a planned window
outcome          kept, rejected or quarantined, with stage and reason; the measures of the filters
records          rows of plan and manifest with their Arrow schemas, the index of the shards
shard_record     the commit record of a shard; importable without pyarrow
run_contract     the settings that are fixed per dataset (run.json)
sample           a training sample <-> the members of its shard entry
spectral_volume  a spectral volume <-> a safetensors file
statistics       the scale of each frequency (statistics.json)
seal             canonical JSON, and JSON with a digest of itself
arrays           aliases of array types by their shapes
"""
