"""User-level differential privacy of a round: the device's noise, the server's decoding, sampling and accounting.

A pure library: no Flower, no sockets, and no file but the cache of calibrations. Two modes use it. **private**: each
device adds its share of discrete noise before its update is masked, so that the server sees a noised sum only
(`mechanism.privatise`, `mechanism.decode`). **central**: a server that is trusted with each update adds Gaussian noise
to their integers (`mechanism.central_mean`). What both cost is in `accounting`, what noise a wanted ε needs in
`calibration`.
"""
