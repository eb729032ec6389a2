package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"coati/gateway/control"
)

// newIpsec answers those commands of ipsec(8) that have a meaning here, pluto's and strongSwan's.
func newIpsec() *cobra.Command {
	return &cobra.Command{
		Use:   "ipsec auto --add|--replace|--up|--down|--route|--status NAME | up NAME | down NAME | status | reload",
		Short: "answer as the ipsec of pluto and strongSwan does",
		Long: `Speaks to the running daemon in the words of ipsec(8); a link named ipsec does the same.

ipsec auto --up NAME, or ipsec up NAME, brings a conn up and prints pluto's lines for its states; --down takes it down.
--add, --replace and --rereadsecrets read the configuration again, as do ipsec reload and update. ipsec status, and
ipsec auto --status, list conns and SAs in pluto's form. The daemon itself is coati run.`,
		DisableFlagParsing: true,
		RunE:               ipsec,
	}
}

func ipsec(cmd *cobra.Command, args []string) error {
	args, err := ownOptions(cmd, args, "--control")
	if err != nil {
		return err
	}
	args = slices.DeleteFunc(args, func(a string) bool { return a == "--asynchronous" || a == "--verbose" })
	if len(args) == 0 || args[0] == "-h" || args[0] == "--help" {
		return cmd.Help()
	}
	verb, rest := args[0], args[1:]
	if verb == "auto" || verb == "whack" {
		if len(rest) == 0 {
			return failed(fmt.Errorf("%s wants --add, --replace, --up, --down, --route or --status", verb))
		}
		if verb == "whack" && len(rest) > 1 && rest[0] == "--name" {
			rest = append(slices.Clone(rest[2:]), rest[1]) // whack --name NAME --initiate
		}
		verb, rest = rest[0], rest[1:]
	}
	return failed(ipsecDo(cmd, strings.TrimPrefix(verb, "--"), rest))
}

func ipsecDo(cmd *cobra.Command, verb string, rest []string) error {
	switch verb {
	case "status", "statusall":
		return plutoStatus(cmd, rest)
	case "reload", "update", "rereadall", "rereadsecrets", "ready", "reread":
		return reload(cmd)
	case "start", "stop", "restart", "setup":
		return fmt.Errorf("%s: the daemon is coati run --config FILE, in the foreground: begin and end it as any service", verb)
	case "add", "replace", "up", "initiate", "down", "terminate", "route", "ondemand", "delete":
		if len(rest) != 1 {
			return fmt.Errorf("%s wants the name of one conn", verb)
		}
		return plutoConn(cmd, verb, rest[0])
	}
	return fmt.Errorf("%q is not carried: want auto, up, down, status or reload", verb)
}

// targets are the children of a conn's name: the one that has it, those that its pairs of subnets have become, or a whole tunnel.
func targets(s control.Status, conn string) []control.Target {
	pair := regexp.MustCompile("^" + regexp.QuoteMeta(conn) + "-[0-9]+x[0-9]+$")
	var out []control.Target
	for _, t := range s.Tunnels {
		for _, c := range t.Children {
			if c.Name == conn || pair.MatchString(c.Name) {
				out = append(out, control.Target{Tunnel: t.Name, Child: c.Name})
			}
		}
	}
	if out == nil && slices.ContainsFunc(s.Tunnels, func(t control.Tunnel) bool { return t.Name == conn }) {
		return []control.Target{{Tunnel: conn}}
	}
	return out
}

func plutoConn(cmd *cobra.Command, verb, conn string) error {
	c, w := client(cmd), cmd.OutOrStdout()
	if verb == "add" || verb == "replace" {
		if err := reload(cmd); err != nil {
			return err
		}
	}
	s, err := c.Status(cmd.Context())
	if err != nil {
		return err
	}
	list := targets(s, conn)
	if list == nil {
		return fmt.Errorf("021 no connection named %q: is its auto ignore, or missing", conn)
	}
	do, done := c.Up, ""
	switch verb {
	case "add", "replace":
		_, err = fmt.Fprintf(w, "002 added connection description %q\n", conn)
		return err
	case "route", "ondemand":
		for _, t := range s.Tunnels {
			if t.Name == list[0].Tunnel && t.Start == "listen" {
				return fmt.Errorf("%s: the file decides that: say auto=route and ipsec reload", verb)
			}
		}
		return nil // it waits for traffic as it is
	case "delete":
		return errors.New("delete: the file decides what is there: take the conn out of it, or say auto=ignore, and ipsec reload")
	case "down", "terminate":
		do, done = c.Down, "terminating SAs using this connection"
	}
	if err := each(cmd.Context(), list, do); err != nil {
		return err
	}
	if done != "" {
		_, err = fmt.Fprintf(w, "002 %q: %s\n", conn, done)
		return err
	}
	if s, err = c.Status(cmd.Context()); err != nil {
		return err
	}
	_, err = io.WriteString(w, plutoUp(s, list))
	return err
}

func each(ctx context.Context, list []control.Target, do func(context.Context, control.Target) (control.Done, error)) error {
	for _, t := range list {
		if _, err := do(ctx, t); err != nil {
			return err
		}
	}
	return nil
}

// plutoState is the name of a state, and what pluto says of it.
type plutoState struct{ name, text string }

func ikeState(i control.IKE, aggressive bool) plutoState {
	role, last := "R", "3"
	if i.Initiator {
		role, last = "I", "4"
	}
	switch {
	case i.Version == 1 && aggressive && i.Established == nil:
		return plutoState{"STATE_AGGR_" + role + "1", "negotiating"}
	case i.Version == 1 && aggressive && i.Initiator:
		return plutoState{"STATE_AGGR_I2", "sent AI2, ISAKMP SA established"}
	case i.Version == 1 && aggressive:
		return plutoState{"STATE_AGGR_R2", "ISAKMP SA established"}
	case i.Version == 2 && i.Established != nil:
		return plutoState{"STATE_V2_ESTABLISHED_IKE_SA", "established IKE SA"}
	case i.Version == 2:
		return plutoState{"STATE_V2_PARENT_" + role + "1", "negotiating"}
	case i.Established != nil:
		return plutoState{"STATE_MAIN_" + role + last, "ISAKMP SA established"}
	}
	return plutoState{"STATE_MAIN_" + role + "1", "negotiating"}
}

func childState(i control.IKE) plutoState {
	switch {
	case i.Version == 2:
		return plutoState{"STATE_V2_ESTABLISHED_CHILD_SA", "IPsec SA established"}
	case i.Initiator:
		return plutoState{"STATE_QUICK_I2", "sent QI2, IPsec SA established"}
	}
	return plutoState{"STATE_QUICK_R2", "IPsec SA established"}
}

// plutoSA is an SA with the number that pluto's lines give it: those of IKE first, then the children's, tunnel by tunnel.
type plutoSA struct {
	number  int
	tunnel  *control.Tunnel
	ike     control.IKE
	parent  int
	child   *control.Child // nil: it is an IKE SA
	pair    control.Pair
	newest  bool
	display string // conn
}

func plutoSAs(s control.Status) []plutoSA {
	var out []plutoSA
	for ti := range s.Tunnels {
		t := &s.Tunnels[ti]
		var last control.IKE
		parent := 0
		for n, i := range t.IKE {
			out = append(out, plutoSA{number: len(out) + 1, tunnel: t, ike: i, newest: n == len(t.IKE)-1, display: t.Name})
			last, parent = i, len(out)
		}
		for ci := range t.Children {
			c := &t.Children[ci]
			for n, p := range c.SAs {
				out = append(out, plutoSA{number: len(out) + 1, tunnel: t, ike: last, parent: parent, child: c, pair: p, newest: n == len(c.SAs)-1, display: c.Name})
			}
		}
	}
	return out
}

// plutoUp are the lines that ipsec auto --up ends with.
func plutoUp(s control.Status, list []control.Target) string {
	var b strings.Builder
	all := plutoSAs(s)
	for _, sa := range all {
		ours := slices.ContainsFunc(list, func(t control.Target) bool {
			return t.Tunnel == sa.tunnel.Name && (t.Child == "" || sa.child == nil || t.Child == sa.child.Name)
		})
		if !ours || !sa.newest {
			continue
		}
		if sa.child == nil {
			st := ikeState(sa.ike, sa.tunnel.Aggressive)
			fmt.Fprintf(&b, "004 %q #%d: %s: %s {%s}\n", sa.display, sa.number, st.name, st.text, sa.ike.Proposal)
			continue
		}
		st := childState(sa.ike)
		fmt.Fprintf(&b, "004 %q #%d: %s: %s %s mode {ESP=>%s <%s xfrm=%s}\n", sa.display, sa.number, st.name, st.text, sa.pair.Mode, hexSPI(sa.pair.Out.SPI), hexSPI(sa.pair.In.SPI), sa.pair.Proposal)
	}
	return b.String()
}

func hexSPI(s string) string { return "0x" + strings.TrimPrefix(s, "0x") }

// plutoStatus lists conns, then SAs.
func plutoStatus(cmd *cobra.Command, names []string) error {
	s, err := client(cmd).Status(cmd.Context())
	if err != nil {
		return err
	}
	if len(names) > 0 {
		s.Tunnels = slices.DeleteFunc(s.Tunnels, func(t control.Tunnel) bool {
			return t.Name != names[0] && !slices.ContainsFunc(t.Children, func(c control.Child) bool { return c.Name == names[0] })
		})
	}
	_, err = io.WriteString(cmd.OutOrStdout(), plutoLines(s))
	return err
}

func plutoLines(s control.Status) string {
	var b strings.Builder
	all := plutoSAs(s)
	fmt.Fprintf(&b, "000 using kernel interface: %s\n000  \n000 Connection list:\n000  \n", s.Gateway.Plane)
	for _, t := range s.Tunnels {
		for _, c := range t.Children {
			owner := 0
			for _, sa := range all {
				if sa.child != nil && sa.tunnel.Name == t.Name && sa.child.Name == c.Name && sa.newest {
					owner = sa.number
				}
			}
			routed := "erouted"
			switch {
			case owner == 0 && t.Start == "listen":
				routed = "unrouted"
			case owner == 0:
				routed = "prospective erouted"
			}
			fmt.Fprintf(&b, "000 %q: %s===%s...%s===%s; %s; eroute owner: #%d\n", c.Name, strings.Join(c.LocalTS, ","), cmp.Or(t.Local, "%defaultroute"), t.Remote, strings.Join(c.RemoteTS, ","), routed, owner)
		}
	}
	ikes, children := 0, 0
	for _, sa := range all {
		if sa.child == nil {
			ikes++
		} else {
			children++
		}
	}
	fmt.Fprintf(&b, "000  \n000 Total IPsec connections: loaded %d, active %d\n000  \n000 State list:\n000  \n", count(s), children)
	for _, sa := range all {
		if sa.child == nil {
			st := ikeState(sa.ike, sa.tunnel.Aggressive)
			newest := ""
			if sa.newest {
				newest = "; newest ISAKMP"
			}
			fmt.Fprintf(&b, "000 #%d: %q:%s %s (%s)%s\n", sa.number, sa.display, port(sa.ike.Remote), st.name, st.text, newest)
			continue
		}
		st := childState(sa.ike)
		owner := ""
		if sa.newest {
			owner = "; newest IPSEC; eroute owner"
		}
		fmt.Fprintf(&b, "000 #%d: %q:%s %s (%s)%s; isakmp#%d\n", sa.number, sa.display, port(sa.ike.Remote), st.name, st.text, owner, sa.parent)
		fmt.Fprintf(&b, "000 #%d: %q esp.%s@%s esp.%s@%s %s\n", sa.number, sa.display, strings.TrimPrefix(sa.pair.Out.SPI, "0x"), host(sa.ike.Remote), strings.TrimPrefix(sa.pair.In.SPI, "0x"), host(sa.ike.Local), sa.pair.Mode)
	}
	fmt.Fprintf(&b, "000  \n000 IKE SAs: total(%d)\n000 IPsec SAs: total(%d)\n", ikes, children)
	return b.String()
}

func count(s control.Status) int {
	n := 0
	for _, t := range s.Tunnels {
		n += len(t.Children)
	}
	return n
}

func port(address string) string {
	if i := strings.LastIndexByte(address, ':'); i >= 0 {
		return address[i+1:]
	}
	return ""
}

func host(address string) string {
	if i := strings.LastIndexByte(address, ':'); i >= 0 {
		return strings.Trim(address[:i], "[]")
	}
	return address
}
