package v2_test

import (
	"testing"

	"coati/ike/sim"
	v2 "coati/ike/v2"
)

// A rule that can be taken out unnoticed is not tested.
func TestTheScenariosNoticeAMissingRule(t *testing.T) {
	t.Parallel()
	for name, mutant := range v2.Mutants {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, s := range sim.Scenarios() {
				for seed := range uint64(8) {
					r := s.Run(seed, func(w *sim.World) { w.OnBoot = func(h *sim.Host) { h.V2.Mutate(mutant) } })
					if len(r.Faults) > 0 {
						return
					}
				}
			}
			t.Errorf("machines without %s pass every scenario", name)
		})
	}
}
