package testkit

import (
	"os"
	"path/filepath"
	"testing"
)

// TestEmulated fails as often as a fault of the emulator is told, and then passes.
func TestEmulated(t *testing.T) {
	const count = "COWL_EMULATED_COUNT"
	if os.Getenv(count) == "" {
		t.Setenv(count, filepath.Join(t.TempDir(), "count"))
	}
	if !Emulated(t) {
		if tries, err := os.ReadFile(os.Getenv(count)); err != nil || string(tries) != "123" {
			t.Errorf("the tries were %q, want 123: %v", tries, err)
		}
		return
	}
	tries, _ := os.ReadFile(os.Getenv(count))
	if err := os.WriteFile(os.Getenv(count), append(tries, byte('1'+len(tries))), 0o644); err != nil {
		t.Fatal(err)
	}
	switch len(tries) {
	case 0:
		t.Fatal("qemu-system-x86_64: system/physmem.c:2678: iotlb_to_section: Assertion `section_index < d->map.sections_nb' failed.")
	case 1:
		t.Fatal("[   24.272071] rcu: rcu_preempt kthread timer wakeup didn't happen for 5251 jiffies! g-1147 f0x0 RCU_GP_WAIT_FQS(5) ->state=0x402")
	}
}
