/* Products of many shapes, in memory of exactly their size, so that a sanitizer sees what is read beside it. */

#include <stdio.h>

#include "products.h"

int main(void) {
    const int64_t outputs[] = {1, 15, 16, 33}, inputs[] = {32, 96, 256}, groups[] = {16, 32, 64, 96, 128, 256};
    int32_t wrong = 0, tried = 0;
    for (int n = 0; n < 4; n++)
        for (int k = 0; k < 3; k++)
            for (int g = 0; g < 6; g++)
                for (int32_t bits = groups[g] == 16 ? 8 : 4; bits <= 8; bits += 4)
                    for (int64_t rows = 1; rows <= 21; rows = rows < 9 ? rows + 1 : rows + 4) {
                        if (inputs[k] % groups[g]) continue;
                        const int32_t kind = (int32_t)(rows % 3);
                        tried++;
                        wrong += shardnet_trial_of(outputs[n], inputs[k], groups[g], bits, rows, kind, (kind + n) % 3) != 0;
                    }
    printf("%s: %d of %d are wrong\n", shardnet_way(), wrong, tried);
    return tried < 500 || wrong || shardnet_trial();
}
