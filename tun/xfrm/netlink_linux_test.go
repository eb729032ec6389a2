package xfrm

import (
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Whether this kernel has ESP or not, the answer is one line, and another question gets the same.
func TestProbeSaysWhyNot(t *testing.T) {
	first, second := Probe(), Probe()
	switch {
	case (first == nil) != (second == nil):
		t.Errorf("two answers: %v, then %v", first, second)
	case first == nil:
		t.Log("this kernel can")
	case !errors.Is(first, ErrUnable) || strings.Contains(first.Error(), "\n"):
		t.Errorf("not one line of words: %q", first)
	default:
		t.Log(first)
	}
}

func TestAnswersOfTheKernel(t *testing.T) {
	t.Parallel()
	c := &conn{sequence: 7}
	answer := func(sequence uint32, errno int32, text string) []byte {
		flags := uint16(unix.NLM_F_CAPPED)
		if text != "" {
			flags |= unix.NLM_F_ACK_TLVS
		}
		m, b := newMessage(unix.NLMSG_ERROR, flags, 4+sizeMessage)
		native.PutUint32(b, uint32(errno))
		if text != "" {
			copy(m.attr(unix.NLMSGERR_ATTR_MSG, len(text)+1), text)
		}
		return m.seal(sequence)
	}
	if done, err := c.read(answer(7, 0, ""), nil); !done || err != nil {
		t.Errorf("an acknowledgement: %v %v", done, err)
	}
	if done, err := c.read(answer(6, -1, ""), nil); done || err != nil {
		t.Errorf("another's answer: %v %v", done, err)
	}
	done, err := c.read(answer(7, -int32(unix.EPROTONOSUPPORT), "Requested type not found"), nil)
	if !done || !errors.Is(err, unix.EPROTONOSUPPORT) || !strings.Contains(err.Error(), "Requested type not found") {
		t.Errorf("a refusal: %v %v", done, err)
	}
	if done, err := c.read(answer(7, 0, "")[:20], nil); !done || !errors.Is(err, errMessage) {
		t.Errorf("half an answer: %v %v", done, err)
	}
}

// Whatever is missing is one line for people.
func TestEachReasonIsOneLine(t *testing.T) {
	t.Parallel()
	for want, err := range map[string]error{
		"xfrm without esp (INET_ESP)": &refusal{errno: unix.EPROTONOSUPPORT},
		"no xfrm (XFRM_USER)":         os.NewSyscallError("socket", unix.EPROTONOSUPPORT),
		"esp without aes-gcm":         &refusal{errno: unix.ENOSYS},
		"wants CAP_NET_ADMIN":         &refusal{errno: unix.EPERM},
	} {
		got := explain(err)
		if !errors.Is(got, ErrUnable) || !strings.Contains(got.Error(), want) || strings.Contains(got.Error(), "\n") {
			t.Errorf("%v: %q, want %q", err, got, want)
		}
	}
}
