package testkit

// EmulatorThread is the accelerator of emulated guests. One thread takes the processors of
// a guest in turn. With a thread for each, 10.0 now and then finds a processor with numbers
// of the memory map before (iotlb_to_section), or a processor that sleeps is not woken by
// its timer.
const EmulatorThread = "tcg,thread=single"

// EmulatorKernel are parameters of kernels of emulated guests: timers that fire again and
// again, so that one that is lost does not stop a processor for ever.
const EmulatorKernel = "nohz=off highres=off"
