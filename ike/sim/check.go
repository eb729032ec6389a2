package sim

import (
	"fmt"
	"time"

	"coati/policy"
)

// Check compares what all hosts know, once the network is quiet: no machine was at fault; each SA's other half lives at
// the peer with the same key; no inbound SPI is used twice. It returns every fault.
func (w *World) Check() []error {
	var faults []error
	type half struct {
		h  *Host
		sa *SA
	}
	in := map[string]half{}
	for _, h := range w.Hosts {
		if h.Err != nil {
			faults = append(faults, h.Err)
		}
		for what := range h.V2.Strayed {
			faults = append(faults, fmt.Errorf("%s: a transition the table does not allow: %s", h.Name, what))
		}
		for what := range h.V1.Strayed {
			faults = append(faults, fmt.Errorf("%s: a step of IKEv1 the table does not allow: %s", h.Name, what))
		}
		for _, sa := range h.Plane.SAs {
			if sa.Direction != policy.Inbound {
				continue
			}
			k := fmt.Sprintf("%s/%d", h.Name, sa.SPI)
			if _, dup := in[k]; dup {
				faults = append(faults, fmt.Errorf("%s: two inbound SAs with SPI %v", h.Name, sa.SPI))
			}
			in[k] = half{h, sa}
		}
	}
	matched := map[*SA]bool{}
	for _, h := range w.Hosts {
		for _, sa := range h.Plane.SAs {
			if sa.Direction != policy.Outbound {
				continue
			}
			to := sa.Path.Remote.Addr()
			if n := w.nats[to]; n != nil {
				to = n.back[sa.Path.Remote.Port()].Addr()
			}
			there := ""
			if p := w.byAddr[to]; p != nil {
				there = p.Name
			}
			o, ok := in[fmt.Sprintf("%s/%d", there, sa.SPI)]
			if !ok {
				faults = append(faults, fmt.Errorf("%s: outbound SA %v is unknown to its peer", h.Name, sa.SPI))
				continue
			}
			if !o.sa.EncryptionKey.Equal(sa.EncryptionKey) || !o.sa.IntegrityKey.Equal(sa.IntegrityKey) {
				faults = append(faults, fmt.Errorf("%s: SA %v has another key than at its peer", h.Name, sa.SPI))
			}
			matched[o.sa] = true
		}
	}
	for _, o := range in {
		if !matched[o.sa] && (o.sa.Lonely.IsZero() || w.Now.Sub(o.sa.Lonely) > o.h.Limits.DeleteGrace+time.Second) {
			faults = append(faults, fmt.Errorf("%s: inbound SA %v is unknown to its peer", o.h.Name, o.sa.SPI))
		}
	}
	return faults
}
