ebb_unit_test(model buckets)
ebb_unit_test(model check)
ebb_unit_test(model config)
ebb_unit_test(model learn)
ebb_unit_test(model metrics)
ebb_unit_test(model onnx)
ebb_unit_test(model whole)

# Backward passes in parts on the CUDA backend: on a GPU where there is one, and as loops on the host.
set_target_properties(test_model_buckets PROPERTIES ENABLE_EXPORTS ON) # the backend meets one copy of the error record
if(TARGET ebb_cuda_double)
  add_test(NAME gpu.double.buckets COMMAND test_model_buckets cuda_double)
  add_dependencies(test_model_buckets ebb_cuda_double)
  set_tests_properties(gpu.double.buckets PROPERTIES LABELS gpu TIMEOUT 600
    ENVIRONMENT "EBB_BACKEND_PATH=$<TARGET_FILE_DIR:ebb_cuda_double>")
endif()
if(TARGET ebb_cuda)
  add_test(NAME gpu.buckets COMMAND test_model_buckets cuda)
  set_tests_properties(gpu.buckets PROPERTIES LABELS gpu TIMEOUT 600 SKIP_RETURN_CODE 77
    ENVIRONMENT "EBB_BACKEND_PATH=$<TARGET_FILE_DIR:ebb_cuda>")
endif()

# The example plug-in, built as a user would: with the public headers alone.
add_library(plugin_wide_deep MODULE ${CMAKE_CURRENT_LIST_DIR}/../../support/plugin_wide_deep.c)
target_include_directories(plugin_wide_deep PRIVATE ${PROJECT_SOURCE_DIR}/include)
set_target_properties(plugin_wide_deep PROPERTIES PREFIX "")
ebb_unit_test(model plugin)
target_compile_definitions(test_model_plugin PRIVATE PLUGIN_WIDE_DEEP="$<TARGET_FILE:plugin_wide_deep>")
add_dependencies(test_model_plugin plugin_wide_deep)
