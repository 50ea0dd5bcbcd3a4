/* Intensities: any bytes give a series that is in order and positive, or an error; and the ladder over it knows every
 * step. */
#include <ebb/carbon.h>

#include <math.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_forecast(const ebb_carbon_series_t *series)
{
    ebb_carbon_forecast_t f;
    ebb_carbon_ladder_t ladder = {.live = series, .typical = ebb_carbon_zone("DE", EBB_CARBON_SCOPE_UNKNOWN)};
    if (ebb_carbon_climb_down(&ladder, series->point[0].begin, 3600, 24, &f) != EBB_OK)
        abort();
    for (int64_t i = 0; i < f.n; i++)
        if (!(f.g[i] > 0) || !isfinite(f.g[i]))
            abort();
    ebb_carbon_forecast_free(&f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ebb_carbon_series_t series;
    ebb_log_set_level(EBB_LOG_ERROR);
    if (ebb_carbon_parse((const char *)data, size, "fuzz", NULL, &series) == EBB_OK) {
        for (int64_t i = 0; i < series.n; i++)
            if (series.point[i].end <= series.point[i].begin || !(series.point[i].g > 0) ||
                (i > 0 && series.point[i].begin < series.point[i - 1].end))
                abort();
        check_forecast(&series);
        ebb_carbon_series_free(&series);
    }
    ebb_error_clear();
    return 0;
}
