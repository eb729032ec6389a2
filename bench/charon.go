package bench

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// charonEnv names the daemon of a strongSwan that has the plugin load-tester, whose kernel does nothing. The package of the
// distribution has no such plugin, so it takes part only where somebody has built one.
const charonEnv = "COATI_BENCH_CHARON"

// fakeKernel is the plugin that plays the kernel's part by saying yes.
const fakeKernel = "load-tester"

// charon is one strongSwan and who plays the kernel's part for it.
type charon struct {
	program, kernel string
	about           string // how it is run, for people
}

var installedCharon = &charon{
	charonProgram, "kernel-libipsec",
	"charon with kernel-libipsec, install_routes = no, ikesa_table_size = 16384; swanctl --load-all",
}

// namedCharon is nil where none is named.
func namedCharon() *charon {
	program := os.Getenv(charonEnv)
	if program == "" {
		return nil
	}
	return &charon{program, fakeKernel, charonEnv + "=" + program + ", load-tester { enable = yes, fake_kernel = yes, preshared_key }, the rest as for strongswan, ike"}
}

// Sizes of strongSwan's tables are what its documentation advises for many SAs; a flood from one address is expected here.
const swanResponderConf = `charon {
  load = nonce random openssl kdf hmac sha1 sha2 aes gcm curve25519 pem pkcs1 pkcs8 x509 constraints %[2]s kernel-netlink socket-default vici
  load_modular = no
  install_routes = no
  install_virtual_ip = no
  dos_protection = no
  keep_alive = 0
  ikesa_table_size = 16384
  ikesa_table_segments = 16
  plugins { vici { socket = unix://%[1]s/vici }
    load-tester { enable = %[3]s
      fake_kernel = %[3]s
      preshared_key = %[4]s } }
  filelog { stderr { default = 0
      flush_line = yes } }
}
swanctl { load = nonce random openssl sha1 sha2 hmac aes gcm pem pkcs1 pkcs8 x509 }
`

// begin starts strongSwan without a connection, which load gives it. The label is as for beginCoati.
func (d *charon) begin(ctx context.Context, h *host, label string) (*responder, error) {
	fake := "no"
	if d.kernel == fakeKernel {
		fake = "yes"
	}
	if err := h.write("strongswan.conf", fmt.Sprintf(swanResponderConf, h.dir, d.kernel, fake, strconv.Quote(psk))); err != nil {
		return nil, err
	}
	for folder := range strings.FieldsSeq("x509 x509ca x509ocsp x509aa x509ac x509crl pubkey private rsa ecdsa bliss pkcs8 pkcs12 conf.d") {
		if err := os.MkdirAll(filepath.Join(h.dir, "swanctl", folder), 0o700); err != nil {
			return nil, err
		}
	}
	p, err := h.start(label, swanEnv(h), "", "sh", "-c", "mount -t tmpfs tmpfs /run && exec "+d.program)
	if err != nil {
		return nil, err
	}
	r := &responder{name: StrongSwan, host: h, p: p, ask: func(args ...string) (string, error) {
		all := append(append([]string{"env"}, swanEnv(h)...), "swanctl", args[0], "--uri", "unix://"+h.dir+"/vici")
		return h.run(append(all, args[1:]...)...)
	}}
	return r, p.await(ctx, loadLimit, "charon", func() bool { _, err := r.ask("--stats"); return err == nil })
}

// load gives strongSwan its connections and secrets, all of which it must have taken.
func (r *responder) load(conf string, connections int) error {
	if err := r.host.write("swanctl/swanctl.conf", conf); err != nil {
		return err
	}
	text, err := r.ask("--load-all")
	if err == nil && !strings.Contains(text, fmt.Sprintf("successfully loaded %d connections", connections)) {
		err = fmt.Errorf("strongSwan did not load %d connections: %s", connections, lastLines(text, 2))
	}
	return err
}

// haveStrongSwan says what is missing.
func haveStrongSwan() error {
	if _, err := os.Stat(charonProgram); err != nil {
		return fmt.Errorf("strongSwan %w: apt-get install strongswan-charon strongswan-swanctl libcharon-extra-plugins", errMissing)
	}
	if _, err := exec.LookPath("swanctl"); err != nil {
		return fmt.Errorf("swanctl %w: apt-get install strongswan-swanctl", errMissing)
	}
	return nil
}
