package lab

import (
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// An Iked is OpenIKED's daemon. It needs a kernel with ESP and PF_KEY, and has its files in /etc/iked and a user of its own: in the
// lab's kernel, where nothing that is written lasts.
type Iked struct {
	Host *Host
	p    *Process
}

// StartIked starts the daemon with this iked.conf. The paper is its key, with the certificate and the authority it believes.
func StartIked(t testing.TB, h *Host, conf string, paper PlutoPaper) *Iked {
	t.Helper()
	i := &Iked{Host: h}
	file := h.Write(t, "iked/iked.conf", conf)
	key, cert, ca := h.Write(t, "iked/local.key", paper.Key), h.Write(t, "iked/local.crt", paper.Cert), h.Write(t, "iked/ca.crt", paper.CA)
	i.p = h.Start(t, "iked", nil, "sh", "-c", strings.Join([]string{
		"mount -t tmpfs tmpfs /run",
		"mkdir -p /etc/iked /var/lib/openiked/empty",
		"mount -t tmpfs tmpfs /etc/iked",
		"cd /etc/iked && mkdir -p ca certs crls private pubkeys/ipv4 pubkeys/ipv6 pubkeys/fqdn pubkeys/ufqdn ocsp",
		"install -m 600 -o 990 " + key + " private/local.key && install -m 644 " + cert + " certs/local.crt && install -m 644 " + ca + " ca/ca.crt",
		"openssl pkey -in private/local.key -pubout -out local.pub",
		"{ grep -q ^_iked: /etc/passwd || { echo _iked:x:990:990::/var/lib/openiked/empty:/bin/false >>/etc/passwd && echo _iked:x:990: >>/etc/group; }; }",
		"exec " + filepath.Join(unpacked("openiked"), "usr/sbin/iked") + " -dvv -f " + file,
	}, " && "))
	WaitFor(t, 60*time.Second, "iked has read its policies", func() bool {
		return strings.Contains(i.Log(), "config_setpolicy") || strings.Contains(i.Log(), "ikev2 \"") || !i.p.Running()
	})
	if !i.p.Running() {
		t.Fatalf("iked has ended:\n%s", tail(i.p.Log, 20))
	}
	return i
}

// Log is what the daemon wrote so far.
func (i *Iked) Log() string { return i.p.Text() }
