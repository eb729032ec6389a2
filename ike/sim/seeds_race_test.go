//go:build race

package sim

// everySeeds: the simulator has one goroutine, in which the race detector finds little and takes ten times as long.
const everySeeds = 8
