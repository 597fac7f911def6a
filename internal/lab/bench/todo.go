package main

func traffic(b *bench) (section, error)    { return section{}, nil }
func renewals(b *bench) (section, error)   { return section{}, nil }
func setUp(b *bench) (section, error)      { return section{}, nil }
func runInLane(b *bench) (section, error)  { return section{}, nil }
func throughput(b *bench) (section, error) { return section{}, nil }
func idle(b *bench) (section, error)       { return section{}, nil }
func passes(b *bench) (section, error)     { return section{}, nil }
func minimal([]string) error               { return nil }
func spawn([]string) error                 { return nil }
func loop([]string) error                  { return nil }
