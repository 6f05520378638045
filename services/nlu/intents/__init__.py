"""The intent classifier as it is served: features, head and artefact. Fitting is in `services.nlu.training`."""
