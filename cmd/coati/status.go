package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"coati/gateway/control"
)

func newStatus() *cobra.Command {
	c := &cobra.Command{
		Use:   "status [NAME]",
		Short: "show tunnels, children, counters and queues",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := client(cmd).Status(cmd.Context())
			if err != nil {
				return failed(err)
			}
			if len(args) == 1 {
				s.Tunnels = slices.DeleteFunc(s.Tunnels, func(t control.Tunnel) bool { return t.Name != args[0] })
				if len(s.Tunnels) == 0 {
					return failed(fmt.Errorf("tunnel %q is not configured: coati status shows those that are", args[0]))
				}
			}
			if asJSON, _ := cmd.Flags().GetBool("json"); asJSON {
				e := json.NewEncoder(cmd.OutOrStdout())
				e.SetIndent("", "  ")
				return failed(e.Encode(s))
			}
			return failed(printStatus(cmd.OutOrStdout(), s, time.Now()))
		},
	}
	c.Flags().Bool("json", false, "print json; its names do not change")
	return c
}

// printStatus writes the gateway's lines, then for each tunnel one line, its IKE SAs, and a line for each child.
func printStatus(w io.Writer, s control.Status, now time.Time) error {
	var b strings.Builder
	g := s.Gateway
	fmt.Fprintf(&b, "gateway  %s  pid %d  up %s  mtu %d  %d queues  offloads %s\n", g.TUN, g.PID, age(now, g.Started), g.MTU, g.Queues, cmp.Or(g.TUNOffloads, "none"))
	if g.Ciphers != "" {
		fmt.Fprintf(&b, "         ciphers by %s\n", g.Ciphers)
	}
	for _, k := range g.Sockets {
		fmt.Fprintf(&b, "         %s  %d sockets  offloads %s\n", k.Address, k.Sockets, cmp.Or(k.Offloads, "none"))
	}
	for i, q := range g.QueueFrames {
		fmt.Fprintf(&b, "         queue %d  %d frames out  %d frames in\n", i, q.Read, q.Written)
	}
	if g.KeyLog != "" {
		fmt.Fprintf(&b, "         keys are logged in %s\n", g.KeyLog)
	}
	if g.Guard != nil {
		fmt.Fprintf(&b, "         guard: %d packets\n", g.Guard.Packets)
	} else {
		b.WriteString("         guard: off\n")
	}
	tw := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, d := range g.DropCounts {
		fmt.Fprintf(tw, "         dropped: %s\t%s\t%d\n", d.Reason, cmp.Or(d.XFRM, "-"), d.Packets)
	}
	tw.Flush()
	if r := g.LastRefused; r != nil {
		fmt.Fprintf(&b, "         refused  %s\n", refusal(*r, now))
	}
	for _, t := range s.Tunnels {
		b.WriteByte('\n')
		printTunnel(&b, t, now)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func printTunnel(b *strings.Builder, t control.Tunnel, now time.Time) {
	fmt.Fprintf(b, "%s  %s", t.Name, t.State)
	if t.State != control.StateUp && len(t.IKE) == 0 {
		fmt.Fprintf(b, "  peer %s", t.Remote)
	}
	// A tunnel may be up while one of its children was refused.
	missing := slices.ContainsFunc(t.Children, func(c control.Child) bool { return c.State != control.StateUp })
	if t.LastError != "" && (t.State != control.StateUp || missing) {
		fmt.Fprintf(b, "  because %s", t.LastError)
	}
	if t.State != control.StateUp {
		if t.RetryAt != nil {
			fmt.Fprintf(b, "  next attempt in %s", max(0, t.RetryAt.Sub(now)).Round(time.Second))
		} else if t.Next != "" {
			fmt.Fprintf(b, "  %s", t.Next)
		}
	}
	b.WriteByte('\n')
	if t.NoPath != "" {
		fmt.Fprintf(b, "  no path  %s\n", t.NoPath)
	}
	if r := t.LastRefused; r != nil {
		fmt.Fprintf(b, "  refused  %s\n", refusal(*r, now))
	}
	for _, i := range t.IKE {
		role := "responder"
		if i.Initiator {
			role = "initiator"
		}
		fmt.Fprintf(b, "  ike  %s  %s [%s] - %s [%s]  spi %s %s  %s  %s", i.State, i.Local, i.LocalID, i.Remote, i.RemoteID, i.LocalSPI, i.RemoteSPI, role, cmp.Or(i.Proposal, "no proposal yet"))
		if i.Established != nil {
			fmt.Fprintf(b, "  age %s", age(now, *i.Established))
		}
		switch {
		case i.NATLocal && i.NATRemote:
			b.WriteString("  both behind nat")
		case i.NATLocal:
			b.WriteString("  we are behind nat")
		case i.NATRemote:
			b.WriteString("  peer is behind nat")
		}
		if i.Doing != "" {
			fmt.Fprintf(b, "  doing %s", i.Doing)
		}
		b.WriteByte('\n')
		if len(i.Leased) > 0 {
			fmt.Fprintf(b, "       gives it %s\n", strings.Join(i.Leased, ", "))
		}
		if g := i.Given; g != nil {
			fmt.Fprintf(b, "       gives us %s", strings.Join(g.Addresses, ", "))
			if len(g.DNS) > 0 {
				fmt.Fprintf(b, "  dns %s", strings.Join(g.DNS, ", "))
			}
			if len(g.Domains) > 0 {
				fmt.Fprintf(b, "  for %s", strings.Join(g.Domains, ", "))
			}
			b.WriteByte('\n')
		}
	}
	tw := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	fmt.Fprint(tw, "  child\tstate\tspi in\tspi out\tcipher\tvia\tage\treceived\tsent\tdropped\ttraffic\n")
	for _, c := range t.Children {
		ts := strings.Join(c.LocalTS, ",") + " - " + strings.Join(c.RemoteTS, ",")
		if len(c.SAs) == 0 {
			fmt.Fprintf(tw, "  %s\t%s\t-\t-\t-\t-\t-\t-\t-\t-\t%s\n", c.Name, c.State, ts)
		}
		for _, p := range c.SAs {
			ts := strings.Join(p.LocalTS, ",") + " - " + strings.Join(p.RemoteTS, ",")
			fmt.Fprintf(tw, "  %s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", c.Name, p.State, p.In.SPI, p.Out.SPI, p.Proposal, via(p), age(now, p.Established),
				traffic(p.In), traffic(p.Out), cmp.Or(drops(p), "none"), ts)
		}
	}
	tw.Flush()
}

func refusal(r control.Refused, now time.Time) string {
	return fmt.Sprintf("%s ago  %s  %s", age(now, r.At), r.Peer, r.Reason)
}

func via(p control.Pair) string {
	if p.Mode == "tunnel" {
		return p.Encap
	}
	return p.Encap + " " + p.Mode
}

func traffic(s control.SA) string {
	return fmt.Sprintf("%d packets %s", s.Packets, octets(s.Octets))
}

func drops(p control.Pair) string {
	in, out := counts(p.In.Drops), counts(p.Out.Drops)
	switch {
	case in != "" && out != "":
		return "in: " + in + "; out: " + out
	case in != "":
		return "in: " + in
	case out != "":
		return "out: " + out
	}
	return ""
}

// counts lists what is not zero, in the order of the names.
func counts(m map[string]uint64) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if m[k] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", m[k], k))
		}
	}
	return strings.Join(parts, ", ")
}

func octets(n uint64) string {
	const unit = 1024
	if n < 10*unit {
		return fmt.Sprintf("%d B", n)
	}
	f, i := float64(n), -1
	for f >= unit && i < 4 {
		f, i = f/unit, i+1
	}
	return fmt.Sprintf("%.1f %ciB", f, "KMGTP"[i])
}

func age(now, since time.Time) string {
	return max(0, now.Sub(since)).Round(time.Second).String()
}
