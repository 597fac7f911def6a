package policy

// Snapshot is what NetworkManager last said, all of one moment.
type Snapshot struct {
	Uplinks  []Uplink
	Profiles []ProfileLane // that ask for a lane
	Known    bool          // it has spoken since this process started
	Running  bool          // it is on the bus now
}
