package gateway

import (
	"fmt"

	"coati/policy/config"
	"coati/tun"
)

// Advise says what a run of this configuration on this machine would do to it, or would miss, beyond what the configuration
// says. It changes nothing, and what it cannot find out it does not mention.
func Advise(c *config.Config) []string {
	s, err := tun.OpenSurvey()
	if err != nil {
		return nil
	}
	defer s.Close()
	w, err := look(s.Host().Look())
	if err != nil {
		return nil
	}
	var out []string
	for _, uplink := range lay(c.Tunnels, w).strict {
		if strict, err := tun.StrictRPFilter(uplink); err == nil && strict {
			out = append(out, fmt.Sprintf("the reverse-path filter of %s is strict and would drop what peers send: it is made loose for the run, and restored", uplink))
		}
	}
	if c.Gateway.Guard && c.Gateway.Plane != config.PlaneXFRM {
		if err := s.Guard(); err != nil {
			out = append(out, err.Error())
		}
	}
	return out
}
