// EAP-TLS and EAP-TTLS take their key from TLS 1.2 (RFC 5216), also with peers that do not know its extended master secret (RFC 7627), such
// as strongSwan. What that prevents needs a key exchange one end can choose: ours are by elliptic curves alone, and nothing is resumed.
//go:debug tlsunsafeekm=1

// Coati is an IPsec gateway in one program. Each file here is one sub-command; this one holds what they share: the root
// command, the socket, and what an error costs.
//
// Exit codes: 0 done, 1 failed, 2 bad usage or configuration. An error is one line on stderr, lower case, with a hint.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"coati/gateway/control"
)

const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	code := execute(ctx, asLink(os.Args), os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// failure is an error that knows its exit code. Errors of other types come from cobra and are bad usage.
type failure struct {
	code int
	err  error // nil: everything was said already
}

func (f *failure) Error() string {
	if f.err == nil {
		return ""
	}
	return f.err.Error()
}

func (f *failure) Unwrap() error { return f.err }

func failed(err error) error {
	if err == nil {
		return nil
	}
	return &failure{exitFailed, err}
}

func unusable(err error) error { return &failure{exitUsage, err} }

// execute is the program, without the process around it.
func execute(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	f, ours := errors.AsType[*failure](err)
	switch {
	case !ours:
		// Some of cobra's texts have more lines: suggestions, for example.
		text := strings.Join(strings.Fields(err.Error()), " ")
		fmt.Fprintf(stderr, "coati: %s: see coati --help\n", text)
		return exitUsage
	case f.err != nil:
		for line := range strings.SplitSeq(f.Error(), "\n") {
			fmt.Fprintf(stderr, "coati: %s\n", line)
		}
	}
	return f.code
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "coati",
		Short: "an IPsec gateway in userspace",
		Long: `Coati is an IPsec gateway: it negotiates with IKEv2, and with IKEv1 where a file asks for it,
and carries ESP in userspace over a TUN device. Its files are its own, or those of setkey, racoon and pluto as they are.

The daemon is coati run. The other commands talk to it over its control socket, which --control or the
variable COATI_SOCKET names.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return errors.New("no command is given")
		},
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.PersistentFlags().String("control", "", "path of the control socket (COATI_SOCKET; default "+control.DefaultSocket+")")
	root.AddCommand(newRun(), newCheck(), newConvert(), newStatus(), newUp(), newDown(), newRekey(), newReload(), newVersion(), newMan(), newBench(), newSetkey(), newRacoonctl(), newIpsec())
	return root
}

// controlPath is the socket a person named, or empty.
func controlPath(cmd *cobra.Command) string {
	if p, _ := cmd.Flags().GetString("control"); p != "" {
		return p
	}
	return os.Getenv("COATI_SOCKET")
}

// client talks to the daemon.
func client(cmd *cobra.Command) *control.Client {
	p := controlPath(cmd)
	if p == "" {
		p = control.DefaultSocket
	}
	return control.NewClient(p)
}

// target reads NAME or NAME/CHILD.
func target(arg string) (control.Target, error) {
	tunnel, child, both := strings.Cut(arg, "/")
	if tunnel == "" || both && child == "" {
		return control.Target{}, unusable(fmt.Errorf("%q names no tunnel: want NAME or NAME/CHILD, as coati status shows them", arg))
	}
	return control.Target{Tunnel: tunnel, Child: child}, nil
}

// onTarget is the body of the commands that do one thing to one tunnel or child.
func onTarget(do func(*control.Client, context.Context, control.Target) (control.Done, error), done string) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		t, err := target(args[0])
		if err != nil {
			return err
		}
		d, err := do(client(cmd), cmd.Context(), t)
		if err != nil {
			return failed(err)
		}
		text := fmt.Sprintf("%s: %s", args[0], done)
		if d.Text != "" {
			text += ": " + d.Text
		}
		_, err = fmt.Fprintln(cmd.OutOrStdout(), text)
		return failed(err)
	}
}
