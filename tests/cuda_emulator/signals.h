// Turns what memory protection and trapping instructions report of a kernel into its fault.
#pragma once

namespace phi3::emulator {

void handle_signals();  // once per process; other code's signals go where they went

}  // namespace phi3::emulator
