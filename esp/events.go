package esp

import "coati/policy"

// eventBuffer is how many events wait for their reader before they are lost, and repeated.
const eventBuffer = 4096

// Events has one reader.
func (p *Plane) Events() <-chan policy.PlaneEvent { return p.events }

// emit never blocks; false says that the event must be repeated.
func (p *Plane) emit(ev policy.PlaneEvent) bool {
	select {
	case p.events <- ev:
		return true
	default:
		p.count.lost.Add(1)
		return false
	}
}
