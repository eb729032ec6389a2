package lab

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// unpacked is a folder of what prepare-kernel.sh unpacks: kernels, and packages of Debian's that cannot be installed beside others.
func unpacked(name string) string {
	if dir := os.Getenv(unpackedVariable); dir != "" {
		return filepath.Join(dir, name)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = "/root/.cache"
	}
	return filepath.Join(cache, "coati-kernels", name)
}

const unpackedVariable = "COATI_KERNELS"

// A Pluto is Libreswan's daemon. It needs a kernel with ESP, and its programs stand where they are compiled to be only in
// its own view of the files.
type Pluto struct {
	Host *Host
	p    *Process
	dir  string
}

// StartPluto starts the daemon with this ipsec.conf and ipsec.secrets. Papers are imported into its database of certificates:
// the others' authorities, and its own keys.
func StartPluto(t testing.TB, h *Host, conf, secrets string, papers ...PlutoPaper) *Pluto {
	t.Helper()
	l := &Pluto{Host: h, dir: h.Path("pluto")}
	for _, folder := range []string{"nss", "ipsec.d", "run"} {
		if err := os.MkdirAll(filepath.Join(l.dir, folder), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	h.Write(t, "pluto/ipsec.conf", "config setup\n  nssdir="+l.dir+"/nss\n  virtual-private=\n  ikev1-policy=accept\n\n"+conf)
	h.Write(t, "pluto/ipsec.secrets", secrets)
	nss := "sql:" + l.dir + "/nss"
	h.Must(t, "certutil", "-N", "-d", nss, "--empty-password")
	for _, p := range papers {
		key, cert := h.Write(t, "pluto/"+p.Name+".key", p.Key), h.Write(t, "pluto/"+p.Name+".pem", p.Cert)
		ca, p12 := h.Write(t, "pluto/"+p.Name+"-ca.pem", p.CA), filepath.Join(l.dir, p.Name+".p12")
		h.Must(t, "certutil", "-A", "-d", nss, "-n", p.Name+"-ca", "-t", "CT,C,C", "-a", "-i", ca)
		h.Must(t, "openssl", "pkcs12", "-export", "-name", p.Name, "-in", cert, "-inkey", key, "-out", p12, "-passout", "pass:lab")
		h.Must(t, "pk12util", "-d", nss, "-i", p12, "-W", "lab", "-K", "")
	}
	programs := unpacked("libreswan") + "/usr/libexec/ipsec"
	l.p = h.Start(t, "pluto", nil, "sh", "-c", "mount -t tmpfs tmpfs /run && mkdir -p /usr/libexec/ipsec && mount --bind "+programs+" /usr/libexec/ipsec && "+
		"exec /usr/libexec/ipsec/pluto --nofork --stderrlog --nhelpers 0 --no-dnssec --config "+l.dir+"/ipsec.conf --secretsfile "+l.dir+"/ipsec.secrets"+
		" --nssdir "+l.dir+"/nss --ipsecdir "+l.dir+"/ipsec.d --rundir "+l.dir+"/run")
	// It runs addconn itself, which loads every connection with auto=add, and then has it listen.
	WaitFor(t, 60*time.Second, "pluto listens", func() bool {
		_, err := l.Whack("--status")
		return err == nil && strings.Contains(l.Log(), "loading secrets from") || !l.p.Running()
	})
	if !l.p.Running() {
		t.Fatalf("pluto has ended:\n%s", tail(l.p.Log, 20))
	}
	return l
}

// A PlutoPaper is a key with its certificate and the authority it believes, all PEM.
type PlutoPaper struct{ Name, Key, Cert, CA string }

// Whack speaks to the daemon.
func (l *Pluto) Whack(args ...string) (string, error) {
	return l.Host.Run(append([]string{unpacked("libreswan") + "/usr/libexec/ipsec/whack", "--ctlsocket", l.dir + "/run/pluto.ctl"}, args...)...)
}

// Initiate negotiates a connection and returns when it is up, or an error.
func (l *Pluto) Initiate(name string) error {
	_, err := l.Whack("--initiate", "--name", name)
	return err
}

// Log is what the daemon wrote so far.
func (l *Pluto) Log() string { return l.p.Text() }

// Rekey replaces an SA of a connection: "--rekey-ike" or "--rekey-ipsec".
func (l *Pluto) Rekey(kind, name string) error {
	_, err := l.Whack(kind, "--name", name)
	return err
}
